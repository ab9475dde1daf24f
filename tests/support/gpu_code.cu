#include "gpu_code.hpp"

#include <stdexcept>

#include <cuda.h>
#include <cudaTypedefs.h>

namespace support::gpu {

namespace {

__global__ void gate(const volatile int* opened) {
  while (*opened == 0) {
  }
}

__global__ void twice(const int* in, int* out, std::size_t count) {
  const std::size_t i = std::size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < count) out[i] = 2 * in[i];
}

/// A kernel starts only in a stream of the calling thread's current GPU.
class Current {
 public:
  explicit Current(int ordinal) {
    cudaGetDevice(&before_);
    cudaSetDevice(ordinal);
  }
  ~Current() { cudaSetDevice(before_); }

 private:
  int before_ = 0;
};

/// The first launch of a kernel loads it, which waits for whatever is stuck: so not the test's launch is the first.
bool load_all(int ordinal) {
  const Current current(ordinal);
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, gate) == cudaSuccess &&
         cudaFuncGetAttributes(&attributes, twice) == cudaSuccess;
}

void load_once(int ordinal) {
  static const bool loaded = load_all(ordinal);
  if (!loaded) throw std::runtime_error("the tests' kernels cannot be loaded");
}

}  // namespace

bool has_code() noexcept { return true; }

bool launch_gate(int ordinal, CUstream_st* stream, const int* opened) {
  load_once(ordinal);
  const Current current(ordinal);
  gate<<<1, 1, 0, stream>>>(opened);
  return cudaGetLastError() == cudaSuccess;
}

bool launch_twice(int ordinal, CUstream_st* stream, const int* in, int* out, std::size_t count) {
  load_once(ordinal);
  const Current current(ordinal);
  constexpr unsigned threads = 256;
  twice<<<static_cast<unsigned>((count + threads - 1) / threads), threads, 0, stream>>>(in, out, count);
  return cudaGetLastError() == cudaSuccess;
}

std::size_t pool_bytes(const void* device_memory) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult answer{};
#if CUDART_VERSION >= 12050
  const auto error =
      cudaGetDriverEntryPointByVersion("cuPointerGetAttribute", &found, 4000, cudaEnableDefault, &answer);
#else
  const auto error = cudaGetDriverEntryPoint("cuPointerGetAttribute", &found, cudaEnableDefault, &answer);
#endif
  if (error != cudaSuccess || found == nullptr) throw std::runtime_error("the driver has no cuPointerGetAttribute");
  const auto ask = reinterpret_cast<PFN_cuPointerGetAttribute_v4000>(found);
  CUmemoryPool pool = nullptr;
  if (ask(&pool, CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE, reinterpret_cast<CUdeviceptr>(device_memory)) != CUDA_SUCCESS)
    throw std::runtime_error("the memory is of no pool");
  cuuint64_t bytes = 0;
  if (cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &bytes) != cudaSuccess)
    throw std::runtime_error("the pool does not say what is in use");
  return bytes;
}

}  // namespace support::gpu
