"""Runs the Python that a page shows, the lines that are indented by four: python_block.py PAGE LIBRARY.

LIBRARY stands for the name by which an installed library is loaded.
"""

import pathlib
import sys


def main(page, library):
    text = pathlib.Path(page).read_text()
    code = "\n".join(line[4:] if line.startswith("    ") else "" for line in text.split("\n"))
    name = '"libthole.so.0.1"'
    if code.count(name) != 1:
        sys.exit(f"{page} does not load {name} once")
    exec(compile(code.replace(name, repr(library)), page, "exec"), {})


if __name__ == "__main__":
    main(*sys.argv[1:])
