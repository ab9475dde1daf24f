#!/usr/bin/env python3
"""Runs the main job as a person would and looks at what it says.

    check_job.py CASE PROGRAM

CASE is the name of a function below without its `check_`. Exit status 0: all is as it should be; 77: it cannot be
tried here.
"""

import json
import os
import pathlib
import pty
import resource
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree

sys.dont_write_bytecode = True
from check import check_device_nonsense, fails, must, run, succeeds  # noqa: E402, F401
from job_support import MASK, MODES, SMALL, Folder, Started, job, some_bytes, streams, sum_of  # noqa: E402, F401


# ---- What it does


def check_own_file(program):
    for mode in MODES:
        said = succeeds(program, *mode)
        for word in ("device", "bytes", "GB/s", "pinned bytes", "device memory", "buffers", "of the link", "unchecked"):
            assert word in said, f"no {word!r} in:\n{said}"


def check_empty(program):
    loaded, _ = streams(program, b"")
    assert loaded["pieces"] == 0 and loaded["sum"] == "0" * 16, loaded
    for mode in MODES:
        assert "no bytes" in succeeds(program, "/dev/null", *mode)


def check_one_byte(program):
    loaded, returned = streams(program, b"x")
    assert loaded["pieces"] == 1 and returned["copies"] == 2, (loaded, returned)


def check_sizes(program):
    chunk = 64 << 10
    for size in (chunk - 1, chunk, chunk + 1, 7 * chunk, 7 * chunk + 12345):
        for window, threads in ((1, 1), (2, 1), (5, 3), (6, 2)):
            for said, buffers in zip(streams(program, some_bytes(size), "--window", window, "--threads", threads), (1, 2)):
                assert said["pieces"] == -(-size // chunk), said
                assert said["threads"] == min(window, threads, said["pieces"]), said
                assert said["peak_pinned_bytes"] <= window * buffers * chunk + (256 << 10), said


def check_tiny_chunks(program):
    streams(program, some_bytes(1000), "--chunk", 7, "--window", 3)


def check_several_files(program):
    with Folder() as folder:
        first, second = some_bytes(200_001), some_bytes(70_000)
        files = [folder.file("a", first), folder.file("b", b""), folder.file("c", second)]
        for mode in MODES:
            said = job(program, *files, *mode, "--chunk", "8K")
            hole = -len(first) % 4096  # the next file starts at a page
            assert said["bytes"] == len(first) + len(second), said
            assert said["files"] == [str(path) for path in files], said
            parts = (int(sum_of(first, 8192), 16), int(sum_of(bytes(len(first) + hole) + second, 8192), 16),
                     int(sum_of(bytes(len(first) + hole), 8192), 16))
            assert int(said["sum"], 16) == (parts[0] + parts[1] - parts[2]) & MASK, said
        fails(program, *files, "--round-trip", "--output", folder.path("out"), says=["--output", "one FILE"])


def check_sum(program):
    """It is the sum that is described, on both sides, and of each byte's place."""
    with Folder() as folder:
        data = some_bytes(3 * 65536 + 13)
        said = job(program, folder.file("a", data), "--threads", 2)
        assert said["sum"] == said["sum_by_device"] == sum_of(data, 65536), said
        swapped = data[65536:131072] + data[:65536] + data[131072:]
        assert job(program, folder.file("b", swapped))["sum"] == sum_of(swapped, 65536) != said["sum"]
        for check in ("none", "sum", "full"):
            for mode in MODES:
                got = job(program, folder.path("a"), "--check", check, *mode)
                assert got["sum"] == (said["sum"] if check != "none" else "0" * 16), got


def check_sum_whatever_the_cut(program):
    with Folder() as folder:
        source = folder.file("a", some_bytes(1_000_003))
        sums = {job(program, source, "--chunk", chunk, "--threads", threads, *mode)["sum"]
                for chunk in ("8", "4K", "24K", "2M") for threads in (1, 4) for mode in MODES if chunk != "8" or threads == 4}
        assert len(sums) == 1, sums


def check_ring(program):
    """What does not fit into the device streams through a ring; the rest is there in one piece."""
    with Folder() as folder:
        source = folder.file("a", some_bytes(3_000_001))
        whole, ring = job(program, source), job(program, source, "--device-memory", "1M", "--threads", 3)
        assert whole["device_holds_all"] and whole["device_memory_bytes"] == 3_000_001, whole
        assert not ring["device_holds_all"] and ring["device_memory_bytes"] <= 1 << 20, ring
        assert whole["sum"] == ring["sum"] == ring["sum_by_device"]


def check_pipe(program):
    data = some_bytes(300_001)
    for mode in MODES:
        said = job(program, "-", *mode, "--threads", 3, input=data)
        assert said["bytes"] == len(data) and said["sum"] == said["sum_by_device"] == sum_of(data, 65536), said
        said = json.loads(succeeds(program, "-", "--json", *mode, input=data))
        assert "twice" in said["not_compared"], said
    with tempfile.TemporaryFile() as file:  # standard input may be a file, too, which stands somewhere
        file.write(data)
        file.seek(4097)
        assert job(program, "-", stdin=file)["sum"] == sum_of(data[4097:], 65536)


def check_output_to_a_pipe(program):
    with Folder() as folder:
        data = some_bytes(1_000_001)
        source = folder.file("a", data)
        ours, theirs = os.pipe()
        with subprocess.Popen([program, source, "--round-trip", "--output", f"/proc/self/fd/{theirs}", "--threads", "4", *SMALL],
                              pass_fds=[theirs], stdout=subprocess.DEVNULL) as child:
            os.close(theirs)
            with os.fdopen(ours, "rb") as pipe:
                assert pipe.read() == data, "what came back is something else"
            assert child.wait() == 0


def check_output_through_links(program):
    with Folder() as folder:
        data = some_bytes(200_001)
        source, target = folder.file("source", data), folder.file("target", b"old")
        folder.path("link").symlink_to(target)
        job(program, source, "--round-trip", "--output", folder.path("link"))
        assert target.read_bytes() == data and folder.path("link").is_symlink()
        # What is named so is open already: it must be written as it is, and the name stay what it was.
        before = os.readlink("/dev/stdout")
        with open(target, "wb") as out:
            must(not run(program, source, "--round-trip", "--output", "/dev/stdout", *SMALL, stdout=out).returncode, "fails", out)
        assert os.readlink("/dev/stdout") == before and not os.path.exists("/dev/stdout.part")
        assert target.read_bytes()[100_000:len(data)] == data[100_000:]  # the table is written over its begin


def check_late_device(program):
    """A device that does everything as late as it may finds no buffer that was used again too early."""
    os.environ["THOLE_SIMULATION"] = "late,seed=7"
    streams(program, some_bytes(2_000_001), "--threads", 3)


# ---- What it gets


def check_window_larger_than_the_arena(program):
    for mode in MODES:
        fails(program, *mode, "--chunk", "1M", "--window", 17, "--arena", "16M", "-", says=["window of 17", "1 MiB", "16 MiB"])
        fails(program, *mode, "--chunk", "1P", "--window", "9999999999999", "-", says="window")
        fails(program, *mode, "--chunk", "20M", "--arena", "16M", "-", says="window of 1 ")


def check_more_threads_than_pieces(program):
    for mode in MODES:
        with Folder() as folder:
            source = folder.file("a", some_bytes(100_000))
            said = job(program, source, "--threads", 50, *mode)
            assert said["threads"] == 2 and said["pieces"] == 2, said
        assert job(program, "-", "--threads", 50, *mode, input=b"some")["pieces"] == 1


def check_missing(program):
    for mode in MODES:
        fails(program, "/no/such/file", *mode, says=["/no/such/file", "No such file"])
        fails(program, program, "/no/such/file", *mode, says=["/no/such/file", "No such file"])


def check_directory(program):
    for mode in MODES:
        fails(program, "/", *mode, says=["cannot read /", "Is a directory"])


def check_unreadable(program):
    for mode in MODES:
        if os.geteuid() == 0:
            fails(program, "/proc/self/mem", *mode, says=["/proc/self/mem", "Input/output error"])
            continue
        with tempfile.NamedTemporaryFile() as file:
            os.chmod(file.name, 0)
            fails(program, file.name, *mode, says=[file.name, "Permission denied"])


def check_cut_short(program):
    for mode in MODES:
        with Folder() as folder:
            source = folder.file("a", some_bytes(1_000_000))
            started = Started(program, "-", source, *mode)
            started.until_open(source)
            os.truncate(source, 500_000)
            started.feed(b"before")
            started.end(1, f"{source} was cut short while it was read: it had 1000000 bytes, and has 500000 now")


def check_growing(program):
    for mode in MODES:
        with Folder() as folder:
            source = folder.file("a", some_bytes(1_000_000))
            started = Started(program, "-", source, "--json", *mode)
            started.until_open(source)
            with open(source, "ab") as more:
                more.write(some_bytes(500_000))
            said = json.loads(started.end(0))
            assert said["bytes"] == 1_000_000, said
            assert len(said["notes"]) == 1 and "has grown" in said["notes"][0] and "1000000" in said["notes"][0], said


def check_full_disk(program):
    fails(program, program, "--round-trip", "--output", "/dev/full", *SMALL, says=["/dev/full", "No space left"])
    for mode in MODES:
        for option in ("--plot", "--trace"):
            fails(program, program, *mode, option, "/dev/full", *SMALL, says=["/dev/full", "No space left"])
            fails(program, program, *mode, option, "/no/such/folder/file", *SMALL, says=["/no/such/folder", "No such file"])
        with open("/dev/full", "wb") as full:
            fails(program, program, *mode, *SMALL, stdout=full, says=["standard output", "No space left"])


def check_output_is_the_input(program):
    with Folder() as folder:
        source = folder.file("a", b"precious")
        for option in ("--output", "--plot", "--trace"):
            fails(program, source, "--round-trip", option, source, says=option)
            assert source.read_bytes() == b"precious"
        fails(program, source, "--output", source.with_name("b"), says="--round-trip")


def check_direct(program):
    for size in (1, 4096, 65536, 1_000_003):
        for said in streams(program, some_bytes(size), "--direct", "--threads", 2):
            assert said["chunk_bytes"] % 4096 == 0, said
            assert all("--direct" in note for note in said["notes"]), said
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:  # older systems have it not there
        file.write(some_bytes(100_001))
        file.flush()
        try:
            os.close(os.open(file.name, os.O_RDONLY | os.O_DIRECT))
            words = 0
        except OSError:
            words = 1
        said = job(program, file.name, "--direct")
        assert len(said["notes"]) == words and said["sum"] == said["sum_by_device"] == sum_of(some_bytes(100_001), 65536), said
    said = job(program, "-", "--direct", input=b"a pipe has no such thing")
    assert "past the page cache" in said["notes"][0], said
    with open("/proc/version", "rb") as version:  # made up by the kernel, of size 0
        said = job(program, "/proc/version", "--direct", "--round-trip")
        assert said["bytes"] == len(version.read()) and "--direct" in said["notes"][0], said


def check_interrupted(program):
    for mode in MODES:
        for number, status, word in ((signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")):
            with Folder() as folder:
                kept, plot = folder.file("kept", b"what was there before"), folder.path("plot")
                started = Started(program, "-", "--plot", plot, *mode, *(["--output", kept] if mode else []))
                started.until_it_catches(number)
                started.feed(some_bytes(1_000_001))  # more than a pipe holds: it is in the middle of it
                started.process.send_signal(number)
                started.end(status, word)
                assert [path.name for path in pathlib.Path(folder.name).iterdir()] == ["kept"]
                assert kept.read_bytes() == b"what was there before"


# ---- What it shows


def check_plot(program):
    with Folder() as folder:
        source = folder.file("a <b> & \x01c", some_bytes(1_000_000))
        for mode in MODES:
            for file in (source, "/dev/null"):
                job(program, file, *mode, "--plot", folder.path("plot.svg"))
                picture = xml.etree.ElementTree.parse(folder.path("plot.svg")).getroot()
                text = " ".join(node.text or "" for node in picture.iter() if node.tag.endswith("text"))
                assert ("GB/s" in text and "buffers" in text) or "no bytes" in text, text
                assert not any(value in folder.path("plot.svg").read_text() for value in ("nan", "inf"))


def check_trace(program):
    with Folder() as folder:
        source = folder.file("a", some_bytes(1_000_000))
        for mode in MODES:
            said = job(program, source, *mode, "--threads", 2, "--trace", folder.path("trace"))
            events = json.loads(folder.path("trace").read_text())["traceEvents"]
            names = {event["tid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
            assert {"reader 0", "reader 1", "stream of reader 0", "stream of reader 1"} <= set(names.values()), names
            spans = [event for event in events if event["ph"] == "X"]
            copies = [span for span in spans if span["name"].startswith("copy")]
            assert len(copies) == said["copies"] and all("stream" in names[span["tid"]] for span in copies)
            assert sum(span["args"]["bytes"] for span in spans if span["name"] == "read") == said["bytes"]
            moments = [event["name"] for event in events if event["ph"] == "i"]
            assert moments.count("make") >= said["pieces"] and moments.count("drop in flight") == said["dropped_in_flight"]
            for row in {span["tid"] for span in copies}:
                end = 0
                for span in (span for span in copies if span["tid"] == row):
                    assert span["dur"] >= 0 and span["ts"] >= end - 0.002, "copies of one stream do not overlap"
                    end = span["ts"] + span["dur"]


def check_comparison(program):
    with Folder() as folder:
        source = folder.file("a", some_bytes(3_000_000))
        for mode in MODES:
            said = json.loads(succeeds(program, source, *mode, "--json"))
            ways = {way["way"]: way for way in said["comparison"]}
            if said["backend"] == "cuda" and "link" not in ways:
                assert "without CUDA" in said["notes"][0], said
                continue
            assert set(ways) == {"thole", "thole_unchecked", "link", "mapping", "double_buffer", "host_alloc"}, said
            assert ways["link"]["of_the_link"] == 1 and all(way["gigabytes_per_second"] > 0 for way in ways.values())
            said = json.loads(succeeds(program, source, *mode, "--json", "--compare", "1M", "--check", "none"))
            assert all(way["bytes"] == 1 << 20 for way in said["comparison"]), said
        said = json.loads(succeeds(program, source, source, "--json"))
        assert all(way["bytes"] == 6_000_000 for way in said["comparison"]), said


def check_options(program):
    for bad in (["--window", "0"], ["--window", "-1"], ["--chunk", "0"], ["--chunk", "many"], ["--arena", "-5"], ["--threads", "0"],
                ["--threads", "9999999"], ["--check", "some"], ["--nonsense"], ["-", "-"]):
        fails(program, *bad, says=program.rsplit("/", 1)[-1])


def check_help(program):
    said = succeeds(program, "--help")
    for option in ("FILE", "--round-trip", "--check", "--threads", "--chunk", "--window", "--arena", "--device-memory", "--direct",
                   "--output", "--plot", "--trace", "--compare", "--no-comparison", "--json", "Exit status"):
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
    def peak(size, mode):
        with tempfile.NamedTemporaryFile() as file:
            file.truncate(size)
            command = [program, file.name, *mode, "--no-comparison", "--arena", "16M", "--chunk", "1M", "--device-memory", "16M"]
            with subprocess.Popen(command, stdout=subprocess.DEVNULL) as child:
                _, status, usage = os.wait4(child.pid, 0)
                child.returncode = os.waitstatus_to_exitcode(status)
            assert child.returncode == 0
            return usage.ru_maxrss * 1024

    for mode in MODES:
        small, large = peak(24 << 20, mode), peak(400 << 20, mode)
        assert large < small + (64 << 20), f"{small} bytes for 24 MiB, {large} for 400 MiB"


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    globals()["check_" + sys.argv[1]](*sys.argv[2:])
