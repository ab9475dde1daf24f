#pragma once

#include <cstddef>

/// Adds how often each byte value occurs in `size` bytes at `data` to the 256 numbers at `counts`; both lie in the
/// memory of the GPU `ordinal`. Enqueues a kernel on `stream` (a cudaStream_t of that GPU) and returns at once:
/// nullptr, or CUDA's text for what went wrong. Compiled by nvcc, where there is one (THOLE_SAMPLE_HAS_KERNEL).
const char* launch_byte_histogram(int ordinal, void* stream, const unsigned char* data, std::size_t size,
                                  unsigned long long* counts);
