#!/usr/bin/env python3
"""Runs the main job over ranks and compares what it says with what one process says.

    check_mpi.py CASE PROGRAM JOB MPIRUN

CASE is the name of a function below without its `check_`; JOB is the main job as one process.
"""

import json
import os
import resource
import sys

sys.dont_write_bytecode = True
from check import fails, succeeds  # noqa: E402
from job_support import SMALL, Folder, some_bytes  # noqa: E402

# Few cores and a root account are no reason not to try; nor is a machine without ssh.
os.environ.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMPI_MCA_rmaps_base_oversubscribe="1",
                  OMPI_MCA_plm="isolated", OMPI_MCA_btl="self,vader")
# Open MPI ends with memory of its own that it has not given back; what the job leaks shows in its other tests.
os.environ["ASAN_OPTIONS"] = ":".join(filter(None, [os.environ.get("ASAN_OPTIONS"), "detect_leaks=0"]))


def ranks(mpirun, count, program):
    return [mpirun, "-q", "-n", count, program]


def one(job, *arguments):
    return json.loads(succeeds(job, "--json", *SMALL, *arguments))


def many(mpirun, count, program, *arguments):
    said = json.loads(succeeds(*ranks(mpirun, count, program), "--json", *SMALL, *arguments))
    assert said["ranks"] == count and said["sum"] == said["sum_by_device"], said
    return said


def check_one_sum(program, job, mpirun):
    """However many ranks there are, the sum is that of one process; and each rank's exchange arrives."""
    with Folder() as folder:
        source = folder.file("a", some_bytes(3_000_001))
        alone = one(job, source)
        for count in (1, 2, 3):
            said = many(mpirun, count, program, source)
            assert all(said[what] == alone[what] for what in ("sum", "bytes", "pieces")), (said, alone)
            assert said["exchanged_bytes"] == count * (64 << 10), said
            assert said["ranks_that_hold_all"] == count, said


def check_several_files_on_ranks(program, job, mpirun):
    with Folder() as folder:
        files = [folder.file(name, some_bytes(size)) for name, size in (("a", 500_001), ("b", 0), ("c", 70_001), ("d", 1))]
        alone = one(job, *files)
        for count in (2, 3):
            said = many(mpirun, count, program, *files)
            assert (said["sum"], said["bytes"]) == (alone["sum"], alone["bytes"]), (said, alone)


def check_more_ranks_than_pieces(program, job, mpirun):
    with Folder() as folder:
        for size in (1, 100_000):
            source = folder.file("a", some_bytes(size))
            said = many(mpirun, 3, program, source)
            assert said["sum"] == one(job, source)["sum"], said
            assert said["bytes"] == size and said["pieces"] == -(-size // 65536), said


def check_ranks_and_rings(program, job, mpirun):
    with Folder() as folder:
        source = folder.file("a", some_bytes(3_000_001))
        for options in (["--device-memory", "300K"], ["--round-trip"], ["--check", "full"]):
            said = many(mpirun, 2, program, source, *options)
            assert said["sum"] == one(job, source)["sum"], said
            assert said["ranks_that_hold_all"] == (2 if options[0] == "--check" else 0), said


def check_a_rank_fails(program, job, mpirun):
    """The others do not wait for it: the job ends with its one line."""
    with Folder() as folder:
        source = folder.file("a", some_bytes(1_000_000))
        for other in ("/no/such/file", folder.file("b", some_bytes(100))):
            script = f'test "$OMPI_COMM_WORLD_RANK" = 1 && set -- {other} || set -- {source}; exec {program} "$@"'
            says = ["rank 1: "] + (["No such file"] if other == "/no/such/file" else ["other sizes"])
            fails(mpirun, "-q", "-n", 3, "sh", "-c", script, says=says)


def check_bad_input_on_ranks(program, job, mpirun):
    command = ranks(mpirun, 2, program)
    fails(*command, "/no/such/file", says=["rank 0", "/no/such/file", "No such file"])
    fails(*command, "/", says=["rank 0", "Is a directory"])
    fails(*command, "/dev/null", says=["rank 0", "no size"])
    fails(*command, program, "--output", "/dev/full", "--round-trip", says=["rank 0", "06_stream_file"])
    fails(*command, program, "--chunk", "1M", "--window", "99", "--arena", "16M", says=["rank 0", "window of 99"])
    fails(*command, "--nonsense", says="--nonsense")


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    globals()["check_" + sys.argv[1]](*sys.argv[2:])
