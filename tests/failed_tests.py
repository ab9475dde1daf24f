#!/usr/bin/env python3
"""Prints the tests that failed in the build directories it is given, each with the end of what it wrote: what is last is
what a reader of a long log sees. Usage: failed_tests.py BUILD_DIRECTORY..."""

import json
import pathlib
import sys

GOOD = {"OK", "EXPECTEDFAIL", "SKIP"}
LINES = 25


def failed(log):
    for line in log.read_text(errors="replace").splitlines():
        test = json.loads(line)
        if test["result"] not in GOOD:
            yield test


def main():
    for directory in sys.argv[1:]:
        log = pathlib.Path(directory) / "meson-logs" / "testlog.json"
        if not log.exists():
            continue
        for test in failed(log):
            print(f"{pathlib.Path(directory).name}: {test['name']}: {test['result']}, {test['duration']:.1f} s")
            written = (test.get("stdout", "") + test.get("stderr", "")).splitlines()
            for line in written[-LINES:]:
                print("  |", line[:300])


main()
