"""What <thole/thole.hpp> costs whoever includes it.

    compile_cost.py headers INCLUDES COMPILER...    no header of the standard library is included that is dear and not needed
    compile_cost.py time INCLUDES COMPILER...       beside a program that includes <vector> and <span>; judges nothing

INCLUDES are the directories of thole's headers, with colons between them.
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile

# libstdc++'s shared_ptr brings <ostream> by itself; <chrono> and <memory> come by their parts where the library has them so
# (detail/std_parts.hpp).
FORBIDDEN = """
barrier condition_variable deque filesystem forward_list format fstream future iomanip iostream istream latch list locale map
memory_resource mutex queue random ranges regex semaphore set shared_mutex sstream stack stop_token syncstream thread
valarray
""".split()
WHOLE = ["chrono", "memory"]
BESIDE = "#include <vector>\n#include <span>\n"
THOLE = "#include <thole/thole.hpp>\n"


class Compiler:
    def __init__(self, work, includes, command):
        self.work = work
        self.command = [*command, "-std=c++20", *("-I" + directory for directory in includes.split(":"))]

    def source(self, name, text):
        path = pathlib.Path(self.work, name + ".cpp")
        path.write_text(text)
        return str(path)

    def run(self, *arguments):
        return subprocess.run([*self.command, *arguments], check=True, capture_output=True, text=True)

    def headers(self, text):
        """What the text includes, by and by, as (header, who includes it)."""
        lines = self.run("-H", "-fsyntax-only", self.source("headers", text)).stderr.splitlines()
        above = {}
        for line in lines:
            if match := re.match(r"(\.+) (\S+)", line):
                depth = len(match.group(1))
                above[depth] = match.group(2)
                yield match.group(2), above.get(depth - 1, "the program")

    def lines(self, text):
        return self.run("-E", "-P", self.source("lines", text)).stdout.count("\n")

    def seconds(self, text, *arguments):
        """Of this process's children, the least of some runs: the machine has other things to do."""
        path = self.source("seconds", text)
        least = None
        for _ in range(7):
            before = os.times()
            self.run(*arguments, path)
            after = os.times()
            took = after.children_user - before.children_user + after.children_system - before.children_system
            least = took if least is None else min(least, took)
        return least


def is_standard(path, name):
    return re.search(r"/(c\+\+/[^/]+|c\+\+/v1)/" + name + "$", path) is not None


def check_headers(compiler):
    # Other libraries, and libstdc++ before 12, have no headers for the parts.
    in_parts = "bits/chrono.h" in compiler.run("-E", "-P", "-dM", compiler.source("parts", PARTS)).stdout
    forbidden = FORBIDDEN + (WHOLE if in_parts else [])
    found = [(name, path, by) for path, by in compiler.headers(THOLE) for name in forbidden if is_standard(path, name)]
    for name, _, by in found:
        print(f"<{name}> is included by {by}")
    seen = [name for path, _ in compiler.headers("#include <regex>\n") for name in ["regex", "locale"] if is_standard(path, name)]
    if sorted(set(seen)) != ["locale", "regex"]:
        print("this check does not see a <regex> that is there")
        return 1
    return 1 if found else 0


PARTS = """#include <version>
#if defined(_GLIBCXX_RELEASE) && _GLIBCXX_RELEASE >= 12
#define PARTS "bits/chrono.h"
#endif
"""


def show_time(compiler):
    print(f"preprocessed lines: {compiler.lines(THOLE)}, beside {compiler.lines(BESIDE)}")
    for what in [["-fsyntax-only"], ["-O0", "-c", "-o", os.devnull]]:
        beside, thole = (compiler.seconds(text, *what) for text in (BESIDE, THOLE))
        print(f"{what[0]}: {thole:.2f} s, {thole / beside:.2f} x one that includes <vector> and <span> ({beside:.2f} s)")
    return 0


def main(what, includes, *command):
    with tempfile.TemporaryDirectory() as work:
        compiler = Compiler(work, includes, command)
        return check_headers(compiler) if what == "headers" else show_time(compiler)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
