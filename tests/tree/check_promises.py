#!/usr/bin/env python3
"""Every promise of lib/backend/backend.hpp has a number in brackets, and a case of tests/contract that asks it. Every call
there that returns a Status is in the list of tests/contract/every_call.hpp.

    check_promises.py ROOT [WORDS]

With WORDS the tree is known to be wrong, and the check must say so in these words.
"""

import pathlib
import re
import sys

NUMBER = re.compile(r"\[(\d+)\]")
CALL = re.compile(r"\bvirtual Status (\w+)\(")
LISTED = re.compile(r'\{"(\w+)",')
CASE = re.compile(r'\b(?:CONTRACT_CASE|TEST_CASE)\(\s*"((?:[^"\\]|\\.|"\s*")*)"')


def faults(root):
    promised = [int(n) for line in (root / "lib/backend/backend.hpp").read_text().splitlines() if "//" in line
                for n in NUMBER.findall(line.split("//", 1)[1])]
    if not promised:
        yield "backend.hpp numbers no promise"
    for number in sorted({n for n in promised if promised.count(n) > 1}):
        yield f"promise [{number}] is there twice"
    asked = {int(n) for source in (root / "tests/contract").glob("*.cpp") for case in CASE.findall(source.read_text())
             for n in NUMBER.findall(case)}
    for number in sorted(set(promised) - asked):
        yield f"promise [{number}] has no case in tests/contract"
    for number in sorted(asked - set(promised)):
        yield f"a case asks promise [{number}], which backend.hpp does not make"
    calls = set(CALL.findall((root / "lib/backend/backend.hpp").read_text()))
    listed = set(LISTED.findall((root / "tests/contract/every_call.hpp").read_text()))
    for call in sorted(calls - listed):
        yield f"{call} is not in tests/contract/every_call.hpp"
    for call in sorted(listed - calls):
        yield f"tests/contract/every_call.hpp lists {call}, which is no call of backend.hpp"


def main():
    found = list(faults(pathlib.Path(sys.argv[1])))
    wanted = sys.argv[2] if len(sys.argv) > 2 else None
    for fault in found:
        print(fault)
    if wanted is not None:
        sys.exit(0 if wanted in found else 1)
    sys.exit(1 if found else print("every promise has a case") or 0)


if __name__ == "__main__":
    main()
