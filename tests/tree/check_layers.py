#!/usr/bin/env python3
"""Looks at the tree's text: no file of lib/ includes upwards, and what belongs in one place is in one place.

    check_layers.py ROOT LAYERS
"""

import fnmatch
import pathlib
import re
import sys

LINES_MAX = 450

# What may stand in one place only: a pattern, where, and what it is about.
PLACES = [
    (r"\bmmap\s*\(|<sys/mman\.h>", ["lib/region.cpp"], "memory is mapped"),
    (r"<cuda\w*\.h>", ["lib/cuda_backend*.cpp", "include/thole/cuda.hpp"], "CUDA is called"),
    (r"<mimalloc\w*\.h>", ["lib/mimalloc.cpp"], "mimalloc is called"),
    (r"<(sys|linux)/|<unistd\.h>|<dlfcn\.h>|<pthread\.h>", ["lib/*"], "the operating system is called"),
]

COMMENT_OR_TEXT = re.compile(r'//[^\n]*|/\*.*?\*/|(?<!#include )"(?:\\.|[^"\\\n])*"', re.S)


def read_layers(path):
    layers = []
    for line in path.read_text().splitlines():
        line = line.split("#")[0].strip()
        if line:
            name, files = line.split(":")
            layers.append((name.strip(), files.split()))
    return layers


def layer_of(file, layers):
    """The number of the file's layer: by its own name first, else by a pattern; None: no layer has it."""
    for matches in (str.__eq__, fnmatch.fnmatchcase):
        for number, (_, patterns) in enumerate(layers):
            if any(matches(file.stem, pattern) for pattern in patterns):
                return number
    return None


def check_lib(root, layers):
    for file in sorted((root / "lib").glob("*.[hc]pp")):
        own = layer_of(file, layers)
        if own is None:
            yield f"lib/{file.name} is in no layer: add it to layers.txt"
            continue
        for included in re.findall(r'^\s*#\s*include\s*"([^"]+)"', file.read_text(), re.M):
            other = layer_of(pathlib.Path(included), layers)
            if other is None or not (root / "lib" / included).exists():
                yield f'lib/{file.name} includes "{included}", which is no file of lib/ with a layer'
            elif other > own:
                yield f'lib/{file.name} ({layers[own][0]}) includes upwards: "{included}" ({layers[other][0]})'


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


def main():
    root, layers = pathlib.Path(sys.argv[1]), read_layers(pathlib.Path(sys.argv[2]))
    wrong = [*check_lib(root, layers), *check_public(root), *check_places(root), *check_size(root)]
    print("\n".join(wrong) or "every file includes downwards")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
