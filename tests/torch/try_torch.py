"""PyTorch with thole under its pinned memory, on a machine with a GPU: try_torch.py LIBTHOLE_TORCH. Exit status 77: no PyTorch here.

The same parts (parts.py) run in two processes, one with PyTorch's own allocator and one with thole's, one after the other. At the
end the figures of both stand beside each other, a line `claim: name | figure | target | peer | outcome` each.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time

SECONDS_EACH = 90  # for a process, which needs a fifth of that


def run_process(allocator, library):
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "result")
        parts = os.path.join(os.path.dirname(os.path.abspath(__file__)), "parts.py")
        command = [sys.executable, "-X", "faulthandler", parts, allocator, library, file, str(SECONDS_EACH)]
        try:
            status = subprocess.run(command, timeout=SECONDS_EACH).returncode
        except subprocess.TimeoutExpired:
            status = f"over {SECONDS_EACH} s"
        result = {"figures": {}, "failed": [], "last": "nothing"}
        if os.path.exists(file):
            with open(file) as text:
                result = json.load(text)
    if status not in (0, 1):
        result["failed"].append(f"the process ended with {status} behind '{result['last']}'")
    elif status == 1 and not result["failed"]:
        result["failed"].append("it came to nothing")
    return result


def claim(name, key, unit, factor, own, thole):
    """A figure that should be at most so many times PyTorch's own."""
    ours, theirs = thole.get(key), own.get(key)
    if ours is None or theirs is None:
        print(f"claim: torch: {name} | - | - | - | FAILED")
        return
    outcome = "ok" if ours <= factor * theirs else "MISSED"
    print(f"claim: torch: {name} | {ours:.4g} {unit} | <= {factor * theirs:.4g} | PyTorch's own: {theirs:.4g} {unit} | {outcome}")


def main(library):
    if importlib.util.find_spec("torch") is None:
        print("python3 has no PyTorch here: skipped")
        return 77
    began = time.monotonic()
    own, thole = run_process("own", library), run_process("thole", library)
    print()
    for allocator, result in ("own", own), ("thole", thole):
        for name in result["failed"]:
            print(f"FAILED with {allocator}: {name}")
    figures = own["figures"], thole["figures"]
    claim("a first pinned tensor of 300 MB", "first large tensor", "ms", 1, *figures)
    claim("pinned tensor of 64 KiB, copy 1 KiB of it, drop, from Python, 1 thread", "rate 1", "us", 1.1, *figures)
    claim("the same, 16 threads, by the total", "rate 16", "us", 1.1, *figures)
    claim("pinned bytes a byte of tensors of 65 MiB", "waste", "x", 0.6, *figures)
    claim("DataLoader, pin_memory, 2 workers, beside 4 GiB", "data loader", "s", 1.2, *figures)
    if "seconds to install 4 GiB" in thole["figures"]:
        seconds = thole["figures"]["seconds to install 4 GiB"]
        print(f"claim: torch: install, which pins 4 GiB | {seconds:.4g} s | - | - | -")
    print(f"{time.monotonic() - began:.1f} s in all")
    # PyTorch's own is the peer: what it does not do is said above, and is not thole's failure.
    return 1 if thole["failed"] else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
