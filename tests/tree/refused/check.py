#!/usr/bin/env python3
"""A call with a type that no buffer may hold does not compile, and the compiler says why and with which type; nor does
what would outlive a borrow, nor, where the warning is an error, a statement that drops what a call returns.

    check.py SOURCE COMPILER...
"""

import subprocess
import sys


def compiled(source, compiler, *options):
    return subprocess.run([*compiler, "-fsyntax-only", *options, source], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)


CALLS = ["PinnedBuffer<Text>()", "DeviceBuffer<Text>()", "heap->make_buffer<Text>(1)", "PinnedBuffer<volatile int>()", "DeviceBuffer<const int>()"]

# What ends with the statement, kept.
OUTLIVE = ["auto span = heap->make_buffer<int>(1).borrow().span()",
           "auto bytes = heap->make_buffer<int>(1).borrow_mut().as_writable_bytes()",
           "for (int x : heap->make_buffer<int>(1).borrow().span()) (void)x"]
# What only clang sees.
DANGLE = ["auto use = thole::reads(heap->make_buffer<int>(1))", "const int* first = heap->make_buffer<int>(1).borrow().data()"]
DROPPED = ["heap->make_buffer<int>(1)", "heap->try_make_buffer<int>(1)", "buffer.borrow()", "buffer.try_borrow_mut()",
           "stream->record()"]


def refuse(source, compiler, statement, words, *options):
    said = compiled(source, compiler, f"-DSTATEMENT={statement}", *options)
    if said.returncode == 0:
        sys.exit(f"{statement} should not compile")
    if not any(word in said.stdout for word in words):
        sys.exit(f"one of {words} should be in what the compiler says of {statement}:\n{said.stdout}")


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
    for statement in OUTLIVE:
        refuse(source, compiler, statement, ["deleted"])
    for statement in DROPPED:
        refuse(source, compiler, statement, ["nodiscard"], "-Werror=unused-result", "-Werror=unused-value")
    is_clang = "clang" in subprocess.run([*compiler, "--version"], stdout=subprocess.PIPE, text=True).stdout
    for statement in DANGLE if is_clang else []:
        refuse(source, compiler, statement, ["temporary"], "-Werror=dangling")


if __name__ == "__main__":
    main()
