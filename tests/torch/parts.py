"""What is tried of PyTorch's pinned memory, in one process: parts.py own|thole LIBTHOLE_TORCH RESULT SECONDS.

Each part stands for itself: what fails is said, and the next one runs. Payloads are checked on the device and on the CPU. The
figures go to the file RESULT, as JSON, after each part. try_torch.py starts this twice.
"""

import faulthandler
import gc
import json
import os
import random
import sys
import threading
import time
import traceback

import torch

MiB = 1 << 20
AT_ONCE, AT_MOST = 4 << 30, 12 << 30  # what thole pins


# ---- What the parts share


def pinned(size, dtype=None):
    return torch.empty(size, dtype=dtype or torch.uint8, pin_memory=True)


def delay(microseconds=200):
    """What is enqueued in this stream behind it is still to come when the CPU goes on."""
    torch.cuda._sleep(int(microseconds * 1500))


def overwrite(size):
    """Memory for so many numbers, if it is free already, gets other contents."""
    pinned(size, torch.int32).fill_(-1)


def stats():
    return dict(torch.ops.thole.stats())


def until(done, what, seconds=20):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"after {seconds} s still not: {what}; {stats()}"
        torch.cuda.synchronize()
        torch._C._host_emptyCache()


def refused(call, words, *kinds):
    """The error's text, which must have these words, and the error be of one of these kinds: RuntimeError, if none is said."""
    try:
        call()
    except kinds or RuntimeError as error:
        assert words in str(error), f"another text: {error}"
        return f"{type(error).__name__}: {error}".split("\n")[0]
    raise AssertionError(f"no error, where one was wanted: ...{words}...")


class Parts:
    """With thole's library, or, where there is none, with PyTorch's own allocator. ORDER, below, says in which order."""

    def __init__(self, library):
        self.thole = library is not None
        self.library = library
        self.figures = {}

    def say(self, name, value):
        self.figures[name] = value
        print(f"  {name}: {value:.6g}", flush=True)

    # ---- Getting it going

    def install(self):
        if not self.thole:
            return
        before = torch.arange(1000, dtype=torch.int32).pin_memory()
        torch.ops.load_library(self.library)
        install = torch.ops.thole.install
        refused(stats, "has not been called")
        print("  refused:", refused(lambda: install(0), "must be at least 1", ValueError, RuntimeError))
        refused(lambda: install(-1), "must be at least 1", ValueError, RuntimeError)
        refused(lambda: install(2, 1), "max_bytes is 1", ValueError, RuntimeError)
        began = time.perf_counter()
        install(AT_ONCE, AT_MOST)
        self.say("seconds to install 4 GiB", time.perf_counter() - began)
        refused(lambda: install(AT_ONCE), "already")
        here = stats()
        assert here["pinned_bytes"] >= AT_ONCE and here["max_bytes"] >= AT_MOST, here
        # What came from the allocator before is known there, and goes back there.
        delay()
        there = before.to("cuda", non_blocking=True)
        del before
        assert (there.cpu() == torch.arange(1000, dtype=torch.int32)).all()
        # Nothing, and memory that no allocator of pinned memory knows.
        assert pinned(0).numel() == 0
        assert (torch.arange(1000).to("cuda", non_blocking=True).cpu() == torch.arange(1000)).all()
        made = pinned(1000)
        assert made.is_pinned() and made[10:].is_pinned() and stats()["in_use_bytes"] > 0

    # ---- Who has which memory, and when

    def copies(self):
        streams = [torch.cuda.Stream() for _ in range(4)]
        wrong = [torch.zeros((), dtype=torch.int64, device="cuda") for _ in streams]
        chance, backs = random.Random(1), []
        torch.cuda.synchronize()
        for i in range(2000):
            size = chance.randint(1, 200_000)
            with torch.cuda.stream(streams[i % 4]):
                delay(50)
                here = pinned(size, torch.int32).fill_(i)
                there = here.to("cuda", non_blocking=True)
                del here
                overwrite(size)
                wrong[i % 4] += (there != i).sum()
                back = pinned(size, torch.int32)
                back.copy_(there, non_blocking=True)
                backs.append((back, i))
            if len(backs) == 40:
                torch.cuda.synchronize()
                assert all((back == i).all() for back, i in backs), f"what came back near {i} is not what went"
                backs.clear()
        torch.cuda.synchronize()
        assert sum(int(one) for one in wrong) == 0, f"wrong on the device: {[int(one) for one in wrong]}"

    def views_and_slices(self):
        chance = random.Random(2)
        wrong = torch.zeros((), dtype=torch.int64, device="cuda")
        for i in range(500):
            size = chance.randint(1000, 100_000)
            there = torch.empty(size // 2, dtype=torch.int32, device="cuda")
            whole = pinned(size, torch.int32).fill_(i)
            part = whole[size // 4 :][: size // 2]
            if self.thole and i % 2 == 1:  # PyTorch's own does not know such a tensor, and its memory
                part = torch.from_numpy(whole.numpy()[size // 4 :][: size // 2])
            elif i % 2 == 1:
                part = part.view(torch.int32)[:]
            delay(50)
            there.copy_(part, non_blocking=True)
            del whole, part
            overwrite(size)
            wrong += (there != i).sum()
        assert int(wrong) == 0, f"{int(wrong)} elements wrong"

    def the_same_memory_again(self):
        for size in 4, 4096, 65536, 1 << 20, 40 << 20:
            first = pinned(size)
            where = first.data_ptr()
            del first
            second = pinned(size)
            assert second.data_ptr() == where, f"{size} bytes are elsewhere the second time"
            del second
        there = torch.zeros(100, dtype=torch.uint8, device="cuda")
        for _ in range(20):
            first = pinned(100).fill_(7)
            where = first.data_ptr()
            delay(50_000)
            there.copy_(first, non_blocking=True)
            done = torch.cuda.Event()
            done.record()
            del first
            second = pinned(100).fill_(1)
            was_in_flight = not done.query()
            assert second.data_ptr() != where or not was_in_flight, "reused while the copy goes on"
            del second
            if was_in_flight:
                break
        else:
            raise AssertionError("no copy was still in flight when it was asked: nothing is shown")
        assert (there == 7).all()

    def sixteen_threads(self):
        failures = []

        def work(number):
            try:
                chance = random.Random(number)
                with torch.cuda.stream(torch.cuda.Stream()):
                    wrong = torch.zeros((), dtype=torch.int64, device="cuda")
                    for i in range(150):
                        size = chance.randint(1, 50_000)
                        here = pinned(size, torch.int32).fill_(number * 1000 + i)
                        there = here.to("cuda", non_blocking=True)
                        del here
                        overwrite(size)
                        wrong += (there != number * 1000 + i).sum()
                    assert int(wrong) == 0, f"thread {number}: {int(wrong)} elements wrong"
            except BaseException as error:  # whatever it is, this thread's end must be heard of
                failures.append(f"{type(error).__name__}: {error}")

        threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures, failures

    # ---- Graphs

    def graph(self):
        size = 30_000
        here, back = pinned(size, torch.int32), pinned(size, torch.int32)
        there = torch.empty(size, dtype=torch.int32, device="cuda")
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            there.copy_(here, non_blocking=True)
            there.mul_(2)
            back.copy_(there, non_blocking=True)
        for frame in range(1, 20):
            here.fill_(frame)
            captured.replay()
            torch.cuda.synchronize()
            assert (back == 2 * frame).all(), f"frame {frame} came back otherwise"
        if self.thole:
            # The graph reads and writes both at each replay: nobody else may have them, though no tensor is left.
            held = stats()["in_use_bytes"]
            del here, back
            torch._C._host_emptyCache()
            others = [pinned(size, torch.int32).fill_(-1) for _ in range(40)]
            for _ in range(3):
                captured.replay()
            torch.cuda.synchronize()
            assert (there == 2 * 19).all(), "the graph's input has been given to somebody else"
            assert all((other == -1).all() for other in others), "the graph has written into somebody else's memory"
            others.clear()
            print(f"  in use with the graph's tensors, without, by the graph alone: {held}, {stats()['in_use_bytes']}")
        del captured
        gc.collect()

    def memory_made_in_a_capture(self):
        size = 5000
        there = torch.full((size,), 3, dtype=torch.int32, device="cuda")
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            inside = pinned(size, torch.int32)
            inside.copy_(there, non_blocking=True)
        captured.replay()
        torch.cuda.synchronize()
        assert (inside == 3).all()
        where = inside.data_ptr()
        del inside
        others = [pinned(size, torch.int32).fill_(-1) for _ in range(40)]
        assert all(other.data_ptr() != where for other in others), "the graph's memory is somebody else's, too"
        captured.replay()
        torch.cuda.synchronize()
        assert all((other == -1).all() for other in others)
        del captured, others
        gc.collect()
        # Two graphs with one pool, as PyTorch's users share it.
        one, two = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(one):
            first = pinned(size, torch.int32)
            first.copy_(there, non_blocking=True)
        with torch.cuda.graph(two, pool=one.pool()):
            second = pinned(size, torch.int32)
            second.copy_(there, non_blocking=True)
        for graph in one, two, one:
            graph.replay()
        torch.cuda.synchronize()
        assert (first == 3).all() and (second == 3).all()
        del one
        gc.collect()
        two.replay()
        torch.cuda.synchronize()
        assert (second == 3).all()

    def what_graphs_kept_comes_back(self):
        if not self.thole:
            return
        gc.collect()
        torch.cuda.synchronize()
        until(lambda: stats()["in_flight_bytes"] == stats()["in_use_bytes"] == 0, "what graphs that are gone had is free")

    # ---- Figures, and limits

    def host_memory_stats(self):
        memory = torch.cuda.memory
        before = memory.host_memory_stats()
        print("  names:", " ".join(sorted({name.split(".")[0] for name in before})))
        if not self.thole:  # whose active figures do not always add up
            return
        held = [pinned(1000) for _ in range(10)]
        during = memory.host_memory_stats()
        held.clear()
        after = memory.host_memory_stats()

        def difference(one, other, name):
            return other[name] - one[name]

        assert difference(before, during, "active_requests.current") == 10, (before, during)
        assert difference(before, during, "active_bytes.current") == 10_000, (before, during)
        assert difference(before, after, "active_requests.allocated") == 10
        assert difference(before, after, "active_requests.freed") == 10
        assert difference(before, after, "active_bytes.current") == 0
        for name in "active_requests", "active_bytes", "allocations", "allocated_bytes":
            assert after[f"{name}.current"] <= after[f"{name}.peak"], (name, after)
        assert after["allocated_bytes.current"] == stats()["pinned_bytes"], (after, stats())
        assert after["num_host_alloc"] - after["num_host_free"] == after["allocations.current"], after
        memory.reset_accumulated_host_memory_stats()
        memory.reset_peak_host_memory_stats()
        anew = memory.host_memory_stats()
        assert anew["active_requests.allocated"] == 0 and anew["active_requests.freed"] == 0, anew
        assert anew["active_requests.peak"] == anew["active_requests.current"], anew

    def growing_and_shrinking(self):
        if not self.thole:
            return
        torch.cuda.synchronize()
        before = stats()["pinned_bytes"]
        large = [pinned(1 << 30) for _ in range(5)]
        grown = stats()["pinned_bytes"]
        assert grown > before, (before, grown)
        print("  refused:", refused(lambda: pinned(AT_MOST), "thole's pinned memory", torch.OutOfMemoryError)[:200])
        refused(lambda: pinned(1 << 50), "thole's pinned memory", torch.OutOfMemoryError)
        large.clear()
        torch._C._host_emptyCache()
        shrunk = stats()["pinned_bytes"]
        assert shrunk < grown, f"{grown} bytes pinned, and {shrunk} after the cache was emptied"
        assert pinned(1000).is_pinned()

    def fork(self):
        if not self.thole:
            print("  not with PyTorch's own: a child that drops a tensor with a copy noted is aborted (2.11)")
            return
        held = [pinned(100_000).fill_(5) for _ in range(20)]
        delay()
        there = held[0].to("cuda", non_blocking=True)
        child = os.fork()
        if child == 0:
            held.clear()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0, "a child that drops its parent's tensors came to harm"
        assert (there == 5).all() and (held[19] == 5).all()

    def data_loader(self):
        from torch.utils.data import DataLoader, TensorDataset

        data = TensorDataset(torch.arange(20_000 * 3 * 32 * 32, dtype=torch.int32).view(20_000, 3, 32, 32))
        wanted = int(data.tensors[0].to(torch.int64).sum())
        held = pinned(64 * MiB)  # that the workers do not get
        seconds = []
        for _ in range(3):
            loader = DataLoader(data, batch_size=250, num_workers=2, pin_memory=True, multiprocessing_context="fork")
            began = time.perf_counter()
            total = torch.zeros((), dtype=torch.int64, device="cuda")
            for (batch,) in loader:
                assert batch.is_pinned()
                total += batch.to("cuda", non_blocking=True).sum(dtype=torch.int64)
            assert int(total) == wanted, f"the sum is {int(total)}, not {wanted}"
            seconds.append(time.perf_counter() - began)
        print("  seconds:", " ".join(f"{one:.3f}" for one in seconds))
        self.say("data loader", sorted(seconds)[1])
        del held

    # ---- How fast, how much

    def first_large_tensor(self):
        began = time.perf_counter()
        pinned(300_000_000)
        self.say("first large tensor", 1e3 * (time.perf_counter() - began))

    def rate(self):
        def run(threads, count):
            def work():
                stream = torch.cuda.Stream()
                with torch.cuda.stream(stream):
                    there = torch.empty(1024, dtype=torch.uint8, device="cuda")
                    for _ in range(count):
                        here = pinned(65536)
                        there.copy_(here[:1024], non_blocking=True)
                        del here
                stream.synchronize()

            all_threads = [threading.Thread(target=work) for _ in range(threads)]
            began = time.perf_counter()
            for thread in all_threads:
                thread.start()
            for thread in all_threads:
                thread.join()
            return 1e6 * (time.perf_counter() - began) / count / threads

        for threads in 1, 16:
            run(threads, 100)
            self.say(f"rate {threads}", sorted(run(threads, 4000 // threads) for _ in range(5))[2])

    def waste(self):
        torch.cuda.synchronize()
        torch._C._host_emptyCache()

        def taken():
            if self.thole:
                return stats()["in_use_bytes"]
            return torch.cuda.memory.host_memory_stats()["allocated_bytes.current"]

        before = taken()
        held = [pinned(65 * MiB) for _ in range(12)]
        self.say("waste", (taken() - before) / (12 * 65 * MiB))
        del held
        if self.thole:
            print("  at the end:", stats())


ORDER = [
    "install", "first_large_tensor", "copies", "views_and_slices", "the_same_memory_again", "sixteen_threads", "rate", "waste",
    "graph", "memory_made_in_a_capture", "what_graphs_kept_comes_back", "host_memory_stats", "growing_and_shrinking", "fork",
    "data_loader",
]  # fmt: skip


def main(allocator, library, file, seconds):
    faulthandler.dump_traceback_later(int(seconds) - 5)  # where it hangs
    print(f"PyTorch {torch.__version__}, CUDA {torch.version.cuda}, {torch.cuda.get_device_name()}")
    parts, failed = Parts(library if allocator == "thole" else None), []
    for name in ORDER:
        print(f"{allocator}: {name}", flush=True)
        began = time.perf_counter()
        try:
            getattr(parts, name)()
            torch.cuda.synchronize()
            print(f"{allocator}: {name}: ok, {time.perf_counter() - began:.2f} s", flush=True)
        except Exception:
            traceback.print_exc(file=sys.stdout)
            print(f"{allocator}: {name}: FAILED, {time.perf_counter() - began:.2f} s", flush=True)
            failed.append(name)
            gc.collect()
            if name == "install":
                break
        with open(file, "w") as out:  # each time: a later part may end the process
            json.dump({"figures": parts.figures, "failed": failed, "last": name}, out)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
