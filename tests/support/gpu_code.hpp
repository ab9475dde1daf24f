#pragma once

// What tests have a GPU do, and ask it, past thole. gpu_code.cu where there is nvcc, else no_gpu_code.cpp.

#include <cstddef>

struct CUstream_st;

namespace support::gpu {

/// Whether there is any: else the other functions must not be called.
bool has_code() noexcept;
/// Enqueues a kernel on the GPU that ends once the CPU has set `*opened`, which the GPU finds there. False when it
/// failed. Meanwhile other streams run, their host functions, too.
bool launch_gate(int ordinal, CUstream_st* stream, const int* opened);
/// Enqueues a kernel that makes `out[i]` twice `in[i]`. False when it failed.
bool launch_twice(int ordinal, CUstream_st* stream, const int* in, int* out, std::size_t count);
/// How much is in use of the memory pool that this device memory is from.
std::size_t pool_bytes(const void* device_memory);

}  // namespace support::gpu
