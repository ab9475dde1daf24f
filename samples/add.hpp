#pragma once

#include <cstddef>

/// Enqueues a kernel on `stream` (a cudaStream_t of the GPU `ordinal`) that sets each of `count` numbers of `sum` to
/// that of `x` and `y`; all three at addresses that are good on that GPU. Returns at once: nullptr, or CUDA's text for
/// what went wrong. Compiled by nvcc.
#if defined(THOLE_SAMPLE_HAS_KERNEL) || defined(__CUDACC__)
const char* launch_add(int ordinal, void* stream, const int* x, const int* y, int* sum, std::size_t count);
#else
inline const char* launch_add(int, void*, const int*, const int*, int*, std::size_t) {
  return "built without nvcc: there is no kernel for a GPU";
}
#endif
