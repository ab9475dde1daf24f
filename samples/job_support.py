"""What the tests of the main job share: files, the sum as it is described, and the job started and looked at."""

import json
import os
import pathlib
import random
import subprocess
import tempfile

from check import must, succeeds

SMALL = ["--chunk", "64K", "--arena", "8M", "--no-comparison"]
LOAD, ROUND_TRIP = [], ["--round-trip"]
MODES = (LOAD, ROUND_TRIP)
MASK = (1 << 64) - 1


def some_bytes(size):
    return random.Random(size).randbytes(size)


def sum_of(data, chunk):
    """The sum that piece_sum.hpp describes."""
    total = 0
    for start in range(0, len(data), chunk):
        piece = data[start:start + chunk]
        for at in range(0, len(piece), 8):
            word = int.from_bytes(piece[at:at + 8], "little") ^ ((start + at + 1) * 0x9E3779B97F4A7C15 & MASK)
            total += (word & 0xFFFFFFFF) * (word >> 32) + word
    return f"{total & MASK:016x}"


class Folder(tempfile.TemporaryDirectory):
    """A folder for the test, and files in it."""

    def __enter__(self):
        return self

    def path(self, name):
        return pathlib.Path(self.name, name)

    def file(self, name, data):
        self.path(name).write_bytes(data)
        return self.path(name)


def job(program, *arguments, **options):
    return json.loads(succeeds(program, "--json", *SMALL, *arguments, **options))


def streams(program, data, *options):
    """The bytes get there, by sum and in number; and come back the same, in a file."""
    with Folder() as folder:
        source, back = folder.file("source", data), folder.path("back")
        loaded = job(program, source, *options)
        returned = job(program, source, "--round-trip", "--output", back, *options)
        assert back.read_bytes() == data, "what came back is something else"
        assert not folder.path("back.part").exists()
        for said in (loaded, returned):
            assert said["bytes"] == len(data), said
            assert said["sum"] == said["sum_by_device"], said
        assert loaded["sum"] == returned["sum"], (loaded, returned)
        assert (loaded["copies"], returned["copies"]) == (loaded["pieces"], 2 * returned["pieces"])
        return loaded, returned


class Started:
    """The job, waiting for standard input, with what it said in the end."""

    def __init__(self, program, *arguments):
        command = [str(part) for part in (program, *arguments, *SMALL)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def until(self, ready):
        while not ready():
            assert self.process.poll() is None, f"it ended: {self.process.communicate()}"
            os.sched_yield()

    def until_open(self, path):
        folder = f"/proc/{self.process.pid}/fd"

        def ready():
            links = []
            for name in os.listdir(folder):
                try:
                    links.append(os.readlink(f"{folder}/{name}"))
                except FileNotFoundError:
                    pass
            return str(path) in links

        self.until(ready)

    def until_it_catches(self, number):
        def ready():
            status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
            return int(status.split("SigCgt:")[1].split()[0], 16) >> (number - 1) & 1

        self.until(ready)

    def feed(self, data):
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def end(self, status, says=""):
        out, err = self.process.communicate()
        result = subprocess.CompletedProcess([], self.process.returncode, out, err)
        must(result.returncode == status, f"should have ended with {status}", result)
        must(says.encode() in err, f"should have said {says!r}", result)
        must(status == 0 or (err.count(b"\n") == 1 and not out), "should have said one line, on stderr", result)
        return out
