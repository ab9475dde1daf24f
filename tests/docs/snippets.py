"""Makes one program of the snippets in pages of docs/: snippets.py OUTPUT HAVE PAGE...

A snippet is a block of C++ in a page. Its includes go to the top of the program; the rest becomes the body of a function that
is given a device, an arena, a heap and a stream, each made anew. A line `<!-- needs: NAME -->` before a block says what it needs:
it is left out where HAVE, a list with commas, has no such name. A block that makes the device itself, as index.md has it, is
whole by itself.
"""

import pathlib
import re
import sys

PROGRAM = """// Made by tests/docs/snippets.py.
{includes}
#include <cstdio>
#include <stdexcept>
#include <utility>
#include <thole/thole.hpp>

// Names that a page uses once more, and what it shows and does not look at, are as it likes.
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wunused-variable"
#pragma GCC diagnostic ignored "-Wunused-but-set-variable"

{functions}

int main() try {{
{calls}
  std::puts("{count} snippets");
}} catch (const std::exception& error) {{
  std::fprintf(stderr, "%s\\n", error.what());
  return 1;
}}
"""
FUNCTION = """void snippet_{number}() {{
{setup}#line {line} "{page}"
{body}
}}
"""
SETUP = """  [[maybe_unused]] auto device = thole::Device::best();
  [[maybe_unused]] auto arena = thole::PinnedArena(device, {.bytes = 16 << 20});
  [[maybe_unused]] auto heap = thole::PinnedHeap(arena);
  [[maybe_unused]] auto stream = thole::Stream(device);
"""


def snippets(page):
    """Of each block of C++: its first line, its lines, and what it needs."""
    lines = page.read_text().split("\n")
    start, needs = None, ""
    for number, line in enumerate(lines):
        if start is not None:
            if line == "```":
                yield start + 1, lines[start:number], needs
                start, needs = None, ""
        elif line == "```cpp":
            start = number + 1
        elif line.startswith("```"):
            raise SystemExit(f"{page}:{number + 1}: a block that is not marked as cpp")
        elif match := re.fullmatch(r"<!-- needs: (\w+) -->", line):
            needs = match.group(1)


def main(output, have, *pages):
    includes, functions, calls = [], [], []
    for page in map(pathlib.Path, pages):
        for first, lines, needs in snippets(page):
            if needs and needs not in have.split(","):
                continue
            includes += [line for line in lines if line.startswith("#include ")]
            body = "\n".join("" if line.startswith("#include ") else line for line in lines)
            setup = "" if "auto device =" in body else SETUP
            number = len(functions)
            functions.append(FUNCTION.format(number=number, setup=setup, line=first, page=page.name, body=body))
            calls.append(f"  snippet_{number}();")
    pathlib.Path(output).write_text(
        PROGRAM.format(
            includes="\n".join(sorted(set(includes))),
            functions="\n".join(functions),
            calls="\n".join(calls),
            count=len(functions),
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
