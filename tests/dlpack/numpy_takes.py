"""NumPy's arrays over thole's memory: numpy_takes.py MODULE. Exit status 77: no NumPy here."""

import ctypes
import os
import sys

try:
    import numpy
except ImportError:
    # Debian's NumPy is for Debian's own Python.
    if sys.executable != "/usr/bin/python3" and os.path.exists("/usr/bin/python3"):
        os.execv("/usr/bin/python3", ["/usr/bin/python3", *sys.argv])
    print("NumPy is not here: skipped")
    sys.exit(77)

CPU, CUDA_HOST = 1, 3
module = ctypes.CDLL(sys.argv[1])
module.make_tensor.restype = ctypes.c_void_p
module.is_pinned.argtypes = [ctypes.c_void_p]
module.bytes_in_use.restype = ctypes.c_size_t
new_capsule = ctypes.pythonapi.PyCapsule_New
new_capsule.restype = ctypes.py_object
new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]


class Tensor:
    """A producer, as NumPy asks for one. Here each tensor is taken, so that its capsule needs no destructor."""

    def __init__(self, device, writable):
        self.device, self.writable = device, writable

    def __dlpack_device__(self):
        return self.device, 0

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        versioned = max_version is not None and max_version[0] >= 1
        self.made_versioned = versioned
        tensor = module.make_tensor(self.device, int(versioned), int(self.writable))
        return new_capsule(tensor, b"dltensor_versioned" if versioned else b"dltensor", None)


assert module.bytes_in_use() == 0
for device in CPU, CUDA_HOST:
    for writable in False, True:
        producer = Tensor(device, writable)
        array = numpy.from_dlpack(producer)
        assert array.shape == (3, 4) and array.dtype == numpy.float32, (array.shape, array.dtype)
        assert (array == numpy.arange(12, dtype=numpy.float32).reshape(3, 4)).all(), array
        assert module.is_pinned(array.ctypes.data), "a copy"
        assert not array.flags.writeable or writable, "what may only be read can be written"
        if writable and producer.made_versioned:
            array[2, 3] = 100
        part = array[1:, 1:]
        del array
        assert part.sum() > 0 and module.bytes_in_use() > 0, "the array's memory went while a part of it lived"
        del part
        assert module.bytes_in_use() == 0, "the array is gone and its memory is not back"
print("NumPy", numpy.__version__)
