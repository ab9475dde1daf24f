#!/usr/bin/env python3
"""thole by ctypes, with what Python brings.

    from_python.py LIBRARY VERSION
"""

import ctypes
import sys
import threading

OK, INVALID_ARGUMENT, TOO_LARGE, TIMED_OUT, NOT_FOUND = 0, 1, 4, 8, 100
READS, WRITES = 1, 2
FOREVER = 2**63 - 1


class Simulation(ctypes.Structure):
    _fields_ = [("device_bytes", ctypes.c_size_t), ("max_pinned_bytes", ctypes.c_size_t), ("stepped", ctypes.c_int32),
                ("seed", ctypes.c_uint64)]


class ArenaOptions(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_size_t), ("max_bytes", ctypes.c_size_t)] + [
        (name, ctypes.c_int32) for name in ("pin_method", "on_numa_node", "numa_node", "in_core_dumps")]


class Block(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("bytes", ctypes.c_size_t), ("in_flight", ctypes.c_int32)]


class HeapStats(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t)
                for name in ("in_use", "in_flight", "peak", "made", "freed_at_once", "deferred", "recycled")]


class Thole:
    """The library with its errors as exceptions, and the objects that it makes as addresses."""

    def __init__(self, path):
        self.library = ctypes.CDLL(path)
        for name in ("thole_last_error", "thole_version_text", "thole_device_name"):
            getattr(self.library, name).restype = ctypes.c_char_p

    def __call__(self, name, *arguments, wanted=OK):
        status = getattr(self.library, "thole_" + name)(*arguments)
        if status != wanted:
            sys.exit(f"thole_{name} said {status}, not {wanted}: {self.last_error()}")

    def make(self, name, *arguments):
        made = ctypes.c_void_p()
        self(name, *arguments, ctypes.byref(made))
        return made

    def last_error(self):
        return self.library.thole_last_error().decode()


def main():
    thole = Thole(sys.argv[1])
    assert thole.library.thole_version_text().decode() == sys.argv[2]

    device = thole.make("device_simulated", ctypes.byref(Simulation(stepped=1)))
    assert thole.library.thole_device_name(device) == b"simulated"
    arena = thole.make("arena_create", device, ctypes.byref(ArenaOptions(bytes=1 << 20)))
    heap = thole.make("heap_create", arena, None)
    stream = thole.make("stream_create", device, 0)

    # Memory that Python writes and the device reads: it comes back when that is done.
    data = thole.make("allocate", heap, ctypes.c_size_t(1 << 20), ctypes.c_size_t(4096))
    assert data.value % 4096 == 0
    view = (ctypes.c_char * (1 << 20)).from_address(data.value)
    view[:5] = b"thole"
    thole("record_use", heap, data, stream, READS)
    block = Block()
    thole("find", heap, ctypes.c_void_p(data.value + 5), ctypes.byref(block))
    assert (block.data, block.bytes, block.in_flight) == (data.value, 1 << 20, 1)
    thole("wait_for", heap, data, WRITES, ctypes.c_int64(0), wanted=TIMED_OUT)
    thole("deallocate", heap, data)
    thole("find", heap, data, ctypes.byref(block), wanted=NOT_FOUND)

    # Another thread has its own last error.
    thole("allocate", heap, ctypes.c_size_t(1 << 30), ctypes.c_size_t(0), ctypes.byref(data), wanted=TOO_LARGE)
    assert str(1 << 30) in thole.last_error(), thole.last_error()
    seen = []
    thread = threading.Thread(target=lambda: seen.append(thole.last_error()))
    thread.start()
    thread.join()
    assert seen == [""], seen
    thole("deallocate", None, data, wanted=INVALID_ARGUMENT)

    # A function of Python's enqueues work.
    run_all(thole, device)  # the memory from above comes back
    again = thole.make("allocate", heap, ctypes.c_size_t(64), ctypes.c_size_t(0))
    called = []
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(lambda context, native: called.append(native))
    thole("use_on", heap, again, stream, WRITES, function, None)
    native = thole.make("stream_native", stream)
    assert called == [native.value], called
    thole("deallocate_after_all", heap, again)
    run_all(thole, device)
    thole("heap_drain", heap, ctypes.c_int64(FOREVER))

    stats = HeapStats()
    thole("heap_get_stats", heap, ctypes.byref(stats))
    assert stats.made == 2, stats.made
    for kind, handle in (("stream", stream), ("heap", heap), ("arena", arena), ("device", device)):
        getattr(thole.library, f"thole_{kind}_destroy")(handle)


def run_all(thole, device):
    thole("simulation_run_all", device, None)


if __name__ == "__main__":
    main()
