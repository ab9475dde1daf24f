#!/usr/bin/env python3
"""Runs the samples as a person would and looks at what they say.

    check.py CASE PROGRAM [FILE...]

CASE is the name of a function below without its `check_`. Exit status 0: all is as it should be; 77: it cannot be
tried here.
"""

import os
import pathlib
import re
import resource
import subprocess
import sys
import tempfile


def run(*command, device=None, **options):
    environment = dict(os.environ)
    if device is not None:
        environment["THOLE_DEVICE"] = device
    options.setdefault("stdout", subprocess.PIPE)
    return subprocess.run([str(part) for part in command], env=environment, stderr=subprocess.PIPE, **options)


def must(condition, why, result):
    if not condition:
        sys.exit(f"{why}\nexit status {result.returncode}\nstdout: {result.stdout}\nstderr: {result.stderr}")


def succeeds(*command, **options):
    result = run(*command, **options)
    must(result.returncode == 0, "should have succeeded", result)
    must(result.stderr == b"" or "05_draw" in str(command[0]), "should have said nothing on stderr", result)
    return result.stdout.decode()


def fails(*command, says, **options):
    """Exit status 1, one clear line on stderr, nothing on stdout."""
    result = run(*command, **options)
    text = result.stderr.decode()
    must(result.returncode == 1, "should have ended with 1", result)
    must(text.count("\n") == 1 and text.endswith("\n"), "should have said one line on stderr", result)
    must(not result.stdout, "should have said nothing on stdout", result)
    for part in [says] if isinstance(says, str) else says:
        must(part in text, f"should have said {part!r}", result)


# ---- The small samples


def check_runs(program):
    said = succeeds(program)
    assert said.strip(), "it said nothing"
    for bad in ("allowed?!", "THE SAME", "false"):
        assert bad not in said, f"{bad!r} in:\n{said}"


def check_sum_is_right(program):
    """On the device that is there, and on the simulated one in any case."""
    for device in None, "simulated":
        assert succeeds(program, device=device) == "40 + 2 = 42\n"


def check_device_nonsense(program):
    fails(program, device="nonsense", says=["nonsense", "THOLE_DEVICE"])


def check_picture(program):
    said = succeeds(program)
    assert "<svg" in said and "</svg>" in said, said[:200]
    with tempfile.TemporaryDirectory() as folder:
        picture = pathlib.Path(folder, "arena.svg")
        assert succeeds(program, picture) == ""
        assert "</svg>" in picture.read_text()
    fails(program, "/no/such/folder/arena.svg", says=["/no/such/folder/arena.svg", "No such file"])


def check_readme(readme, hello):
    """The example of the README is the one that is compiled and run."""
    shown = re.search(r"```cpp\n#include <thole/thole.hpp>\n\n(.*?)```", pathlib.Path(readme).read_text(), re.S).group(1)
    compiled = re.search(r"// README begin\n(.*?)\s*// README end", pathlib.Path(hello).read_text(), re.S).group(1)

    def words(text):
        return [" ".join(line.split()) for line in text.strip().splitlines() if line.strip()]

    assert words(shown) == words(compiled), f"README:\n{shown}\n01_hello.cpp:\n{compiled}"


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    globals()["check_" + sys.argv[1]](*sys.argv[2:])
