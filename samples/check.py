#!/usr/bin/env python3
"""Runs the samples as a person would and looks at what they say.

    check.py CASE PROGRAM [FILE...]

CASE is the name of a function below without its `check_`. Exit status 0: all is as it should be; 77: it cannot be
tried here.
"""

import json
import os
import pathlib
import pty
import random
import re
import resource
import subprocess
import sys
import tempfile

EMPTY_XXH128 = "99aa06d3014798d86001c324468d497f"  # of no bytes, from xxHash's own specification
SMALL = ["--chunk", "64K", "--arena", "8M"]


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


def streams(program, data, *options):
    """The bytes come back the same, in a file, by checksum and in number."""
    with tempfile.TemporaryDirectory() as folder:
        source, back = pathlib.Path(folder, "source"), pathlib.Path(folder, "back")
        source.write_bytes(data)
        said = json.loads(succeeds(program, source, "--output", back, "--json", *SMALL, *options))
        assert back.read_bytes() == data, "what came back is something else"
        assert said["bytes"] == len(data), said
        return said


def some_bytes(size):
    return random.Random(size).randbytes(size)


# ---- The small samples


def check_runs(program):
    said = succeeds(program)
    assert said.strip(), "it said nothing"
    for bad in ("allowed?!", "THE SAME", "false"):
        assert bad not in said, f"{bad!r} in:\n{said}"


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


# ---- The main job


def check_own_file(program):
    said = succeeds(program)
    for word in ("device", "bytes", "GB/s", "copies", "peak pinned bytes", "buffers made", "frees deferred",
                 "most in flight", "x as fast"):
        assert word in said, f"no {word!r} in:\n{said}"


def check_empty(program):
    said = streams(program, b"")
    assert said["xxh128"] == EMPTY_XXH128, said
    assert said["copies"] == 0, said


def check_one_byte(program):
    said = streams(program, b"x")
    assert said["chunks"] == 1 and said["copies"] == 2, said
    assert len(said["comparison"]) == 3 or "CUDA" in said["not_compared"], said


def check_sizes(program):
    chunk = 64 << 10
    for size in (chunk - 1, chunk, chunk + 1, 7 * chunk, 7 * chunk + 12345):
        for window in (1, 2, 5):
            said = streams(program, some_bytes(size), "--window", window, "--no-naive")
            assert said["chunks"] == -(-size // chunk), said
            assert said["peak_pinned_bytes"] <= (2 * window + 1) * chunk + 65536, said


def check_tiny_chunks(program):
    streams(program, some_bytes(1000), "--chunk", 7, "--window", 3)


def check_pipe(program):
    data = some_bytes(300_001)
    said = json.loads(succeeds(program, "-", "--json", *SMALL, input=data))
    assert said["bytes"] == len(data) and "twice" in said["not_compared"], said


def check_window_larger_than_the_arena(program):
    fails(program, "--chunk", "1M", "--window", 9, "--arena", "16M", says=["window of 9", "1 MiB", "16 MiB"])
    fails(program, "--chunk", "1P", "--window", "9999999999999", says="window")


def check_missing(program):
    fails(program, "/no/such/file", says=["/no/such/file", "No such file"])


def check_directory(program):
    fails(program, "/", says=["cannot read /", "Is a directory"])


def check_unreadable(program):
    if os.geteuid() == 0:
        fails(program, "/proc/self/mem", says=["/proc/self/mem", "Input/output error"])
        return
    with tempfile.NamedTemporaryFile() as file:
        os.chmod(file.name, 0)
        fails(program, file.name, says=[file.name, "Permission denied"])


def check_full_disk(program):
    fails(program, program, "--output", "/dev/full", *SMALL, says=["/dev/full", "No space left"])
    with open("/dev/full", "wb") as full:
        fails(program, program, *SMALL, "--no-naive", stdout=full, says=["standard output", "No space left"])


def check_output_is_the_input(program):
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"precious")
        file.flush()
        fails(program, file.name, "--output", file.name, says="--output")
        assert pathlib.Path(file.name).read_bytes() == b"precious"


def check_options(program):
    for bad in (["--window", "0"], ["--window", "-1"], ["--chunk", "0"], ["--chunk", "many"], ["--arena", "-5"],
                ["--nonsense"], ["one", "two"]):
        fails(program, *bad, says=program.rsplit("/", 1)[-1])


def check_help(program):
    said = succeeds(program, "--help")
    for option in ("FILE", "--chunk", "--window", "--arena", "--output", "--no-naive", "--json", "Exit status"):
        assert option in said, f"no {option!r} in:\n{said}"


def check_bar_on_a_terminal_only(program):
    try:
        ours, theirs = pty.openpty()
    except OSError as error:
        print(f"This system gives no terminals: {error}")
        sys.exit(77)  # skipped, in Meson's terms
    result = subprocess.run([program, program], stdout=subprocess.PIPE, stderr=theirs, check=True)
    os.close(theirs)
    drawn = os.read(ours, 65536)
    assert b"GB/s" in drawn and b"[" in drawn, drawn
    assert result.stdout.strip(), "no table"


def check_memory_does_not_grow_with_the_file(program):
    def peak(size):
        with tempfile.NamedTemporaryFile() as file:
            file.truncate(size)
            with subprocess.Popen([program, file.name, "--no-naive", "--arena", "16M", "--chunk", "1M"],
                                  stdout=subprocess.DEVNULL) as child:
                _, status, usage = os.wait4(child.pid, 0)
                child.returncode = os.waitstatus_to_exitcode(status)
            assert child.returncode == 0
            return usage.ru_maxrss * 1024

    small, large = peak(16 << 20), peak(400 << 20)
    assert large < small + (64 << 20), f"{small} bytes for 16 MiB, {large} for 400 MiB"


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    globals()["check_" + sys.argv[1]](*sys.argv[2:])
