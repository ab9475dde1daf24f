#!/usr/bin/env python3
"""A call with a type that no buffer may hold does not compile, and the compiler says why and with which type.

    check.py SOURCE COMPILER...
"""

import subprocess
import sys


def compiled(source, compiler, *options):
    return subprocess.run([*compiler, "-fsyntax-only", *options, source], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)


CALLS = ["PinnedBuffer<Text>()", "DeviceBuffer<Text>()", "heap->make_buffer<Text>(1)", "PinnedBuffer<volatile int>()", "DeviceBuffer<const int>()"]


def main():
    source, *compiler = sys.argv[1:]
    good = compiled(source, compiler)
    if good.returncode != 0:
        sys.exit(f"without a call it should compile:\n{good.stdout}")
    for call in CALLS:
        refused = compiled(source, compiler, f"-DCALL={call}")
        if refused.returncode == 0:
            sys.exit(f"{call} should not compile")
        for words in ["CopiedAsBytes", "trivially copyable", call[call.index("<") + 1 : call.index(">")]]:
            if words not in refused.stdout:
                sys.exit(f"{words!r} should be in what the compiler says of {call}:\n{refused.stdout}")


if __name__ == "__main__":
    main()
