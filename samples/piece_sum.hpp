#pragma once

#include <cstddef>
#include <cstdint>

/// Adds the sum (stream_file/piece_sum.hpp) of `size` bytes at `data`, which stand at byte `position` of the job, to
/// the number at `sum`; both lie in the memory of the GPU `ordinal`. Enqueues a kernel on `stream` (a cudaStream_t of
/// that GPU) and returns at once: nullptr, or CUDA's text for what went wrong. Compiled by nvcc, where there is one
/// (THOLE_SAMPLE_HAS_KERNEL).
const char* launch_piece_sum(int ordinal, void* stream, const unsigned char* data, std::size_t size,
                             std::uint64_t position, unsigned long long* sum);
