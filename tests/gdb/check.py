#!/usr/bin/env python3
"""What gdb shows of thole's handles.

    check.py PRINTERS PROGRAM

Exit status 77: there is no gdb, or it cannot run programs here.
"""

import re
import shutil
import subprocess
import sys

# At each stop, in their order: what is asked, and what is to be seen.
STOPS = [
    {
        "writer": r"BorrowMut<int> of 4 at 0x[0-9a-f]+, a BorrowMut lives = \{10, 11, 12, 13\}",
        "buffer": r"PinnedBuffer<int> of 4 at 0x[0-9a-f]+, a BorrowMut lives = \{10, 11, 12, 13\}",
    },
    {
        "one": r"Borrow<int> of 4 at 0x[0-9a-f]+, 2 Borrows live, used by streams = \{10, 11, 12, 13\}",
        "buffer": r"PinnedBuffer<int> of 4 at 0x[0-9a-f]+, 2 Borrows live, used by streams = \{10, 11, 12, 13\}",
        "heap": r"PinnedHeap 0x[0-9a-f]+, known 2 times(, on the arena 0x[0-9a-f]+, aligned to 256, 0 blocks in flight)$",
        "arena": r"PinnedArena 0x[0-9a-f]+, known \d+ times(, 1 heap)$",
        "stream": r"Stream 0x[0-9a-f]+, known \d+ times(, number \d+, own, 0 of [1-9]\d* uses are known to be done)$",
        "view": r"StreamRef 0x[0-9a-f]+, known \d+ times(, number \d+, own, 0 of [1-9]\d* uses are known to be done)$",
    },
    {
        "buffer": r"PinnedBuffer<int>, moved from$",
        "moved": r"PinnedBuffer<int> of 4 at 0x[0-9a-f]+, 1 Borrow lives, used by streams = \{10, 11, 12, 13\}",
        "empty": r"PinnedBuffer<double>, empty$",
    },
]


def run(command):
    # gdb has been seen to stand still, once in twenty runs on a busy machine, where threads of the program's end.
    for patience in (30, 60):
        try:
            return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=patience).stdout
        except subprocess.TimeoutExpired:
            pass
    sys.exit("gdb does not end")


def main():
    printers, program = sys.argv[1:]
    gdb = shutil.which("gdb")
    if gdb is None:
        print("there is no gdb: skipped")
        sys.exit(77)
    commands = ["set confirm off", "set width 0", "set print address off", "set startup-with-shell off", f"source {printers}",
                "break look", "run"]
    for number, stop in enumerate(STOPS):
        commands += ["up"] + [command for name in stop
                              for command in (f"echo \\n{number} {name}: ", f"output {name}")] + ["echo \\n", "continue"]
    said = run([gdb, "-nx", "-batch"] + [word for command in commands for word in ("-ex", command)] + [program])
    if re.search(r"ptrace: |Cannot create process|not permitted", said):
        print("gdb cannot run programs here: skipped")
        sys.exit(77)
    for number, stop in enumerate(STOPS):
        for name, wanted in stop.items():
            shown = re.search(rf"^{number} {name}: ?(.*)$", said, re.M)
            if shown is None or not re.match(wanted, shown[1]):
                sys.exit(f"{name} at stop {number} should be shown as {wanted}, and gdb said:\n{said}")


if __name__ == "__main__":
    main()
