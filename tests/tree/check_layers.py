#!/usr/bin/env python3
"""Looks at the tree's text: no file of lib/ includes or calls upwards, and what belongs in one place is in one place.

    check_layers.py ROOT [WRONG]

With WRONG the tree must be wrong in one thing, and WRONG be in the words for it: so the check itself is tested.
A file's layer is its folder. The order of the folders is the list in ROOT/lib/README.md, the highest first; a folder
includes itself and what stands below it. An include is not the only way up: a low header may declare what a high source
defines. So what a header declares is defined in the header or in the source of its name (definitions.py).
"""

import fnmatch
import pathlib
import re
import sys

import definitions

LINES_MAX = 450

# What may stand in one place only: a pattern, where, and what it is about.
PLACES = [
    (r"\bmmap\s*\(|<sys/mman\.h>", ["lib/memory/mapping.cpp", "lib/backend/simulated/*memory.cpp", "lib/base/pages.cpp"],
     "memory is mapped"),
    (r"<cuda\w*\.h>", ["lib/backend/cuda/*", "include/thole/cuda.hpp"], "CUDA is called"),
    (r"<mimalloc\w*\.h>", ["lib/memory/mimalloc.cpp"], "mimalloc is called"),
    (r"<(sys|linux)/|<unistd\.h>|<dlfcn\.h>|<pthread\.h>", ["lib/*"], "the operating system is called"),
]

COMMENT_OR_TEXT = re.compile(r'//[^\n]*|/\*.*?\*/|(?<!#include )"(?:\\.|[^"\\\n])*"', re.S)


def read_folders(root):
    """The folders of lib/, the highest first: the lines "- `folder/`: ..." of its README."""
    return re.findall(r"^- `([\w/]+)/`", (root / "lib/README.md").read_text(), re.M)


def sources(root):
    return sorted((root / "lib").rglob("*.[hc]pp"))


def folder_of(root, file):
    return file.parent.relative_to(root / "lib").as_posix()


def may_include(folders, own, other):
    """Whether the folder `own` may include from the folder `other`. A sibling under one parent is no layer below."""
    if own == other:
        return True
    if folders.index(other) <= folders.index(own):
        return False
    return "/" not in own or "/" not in other


def check_includes(root, folders):
    for file in sources(root):
        name, own = file.relative_to(root).as_posix(), folder_of(root, file)
        if own not in folders:
            yield f"{name} is in no layer: lib/README.md lists the folders"
            continue
        for included in re.findall(r'^\s*#\s*include\s*"([^"]+)"', file.read_text(), re.M):
            other = pathlib.PurePosixPath(included).parent.as_posix()
            if not (root / "lib" / included).exists() or other not in folders:
                yield f'{name} includes "{included}", which is no file of a folder of lib/'
            elif not may_include(folders, own, other):
                yield f'{name} includes upwards: "{included}"'


def check_public(root):
    for file in sorted((root / "include/thole").glob("*.hpp")):
        for included in re.findall(r'^\s*#\s*include\s*([<"][^">]+)', file.read_text(), re.M):
            if included.startswith('"'):
                yield f"include/thole/{file.name} includes {included}\": a public header names others as <thole/...>"
            elif included == "<thole/cuda.hpp":
                yield f"include/thole/{file.name} includes <thole/cuda.hpp>: users choose that one"


def check_places(root):
    for folder in ("include", "lib"):
        for file in sorted((root / folder).rglob("*.[hc]pp")):
            name = file.relative_to(root).as_posix()
            text = file.read_text()
            code = COMMENT_OR_TEXT.sub("", text)
            for pattern, places, what in PLACES:
                found = re.search(pattern, code)
                if found and not any(fnmatch.fnmatchcase(name, place) for place in places):
                    yield f"{name} has {found[0]}: {what} in {' and '.join(places)} only"


def check_size(root):
    for folder in ("include", "lib", "samples", "tests"):
        for file in sorted((root / folder).rglob("*.[hc]pp")):
            lines = file.read_text().count("\n")
            if lines > LINES_MAX:
                yield f"{file.relative_to(root)} has {lines} lines, more than {LINES_MAX}: split it by ideas"


def check_definitions(root):
    for (header, source), names in definitions.elsewhere(root).items():
        yield f"{source} defines {', '.join(names)}: declared elsewhere, in {header}"


def main():
    root = pathlib.Path(sys.argv[1])
    folders = read_folders(root)
    wrong = [*check_includes(root, folders), *check_public(root), *check_places(root), *check_size(root),
             *check_definitions(root)]
    print("\n".join(wrong) or "every file includes and calls downwards")
    if len(sys.argv) == 2:
        return 1 if wrong else 0
    return 0 if len(wrong) == 1 and sys.argv[2] in wrong[0] else 1


if __name__ == "__main__":
    sys.exit(main())
