#!/usr/bin/env python3
"""Checks a Promela model exhaustively with spin, and that each of its mutations has an error.

    check.py MODEL SPIN CC

A line " * mutation: NAME ..." of the model names a macro that breaks one rule.
"""

import pathlib
import re
import subprocess
import sys
import tempfile


def run(command, folder):
    done = subprocess.run(command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout


def search(model, spin, compiler, macros):
    """What spin's verifier says of the model with these macros."""
    with tempfile.TemporaryDirectory() as folder:
        for command in (
            [spin, *macros, "-a", str(model)],
            [compiler, "-O1", "-w", "-DSAFETY", "-DCOLLAPSE", "-DMEMLIM=4096", "-o", "pan", "pan.c"],
        ):
            code, text = run(command, folder)
            if code != 0:
                sys.exit(f"{' '.join(command)} failed:\n{text}")
        return run(["./pan", "-m1000000", "-n", "-w22"], folder)[1]


def main():
    model, spin, compiler = pathlib.Path(sys.argv[1]).resolve(), *sys.argv[2:]
    mutations = re.findall(r"^ \* mutation: (\w+)", model.read_text(), re.M)
    wrong = 0
    for name in [None, *mutations]:
        text = search(model, spin, compiler, [f"-D{name}"] if name else [])
        errors = re.search(r"errors: (\d+)", text)
        cut_short = re.search(r"max search depth too small|out of memory|Search not completed", text)
        states = re.search(r"(\d\S*) states, stored", text)
        if errors is None:
            sys.exit(f"the verifier said:\n{text}")
        found = int(errors[1]) != 0
        right = found if name else not found and not cut_short
        print(f"{name or 'the model'}: {errors[0]}, {states[1] if states else '?'} states{'' if right else ': WRONG'}")
        if not right:
            print(text)
            wrong += 1
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
