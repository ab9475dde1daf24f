#include "add.hpp"

namespace {

__global__ void add(const int* x, const int* y, int* sum, std::size_t count) {
  const std::size_t i = std::size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < count) sum[i] = x[i] + y[i];
}

}  // namespace

const char* launch_add(int ordinal, void* stream, const int* x, const int* y, int* sum, std::size_t count) {
  // A kernel starts only in a stream of the calling thread's current device.
  int before = 0;
  cudaError_t error = cudaGetDevice(&before);
  if (error == cudaSuccess) error = cudaSetDevice(ordinal);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  constexpr unsigned threads = 256;
  const auto blocks = static_cast<unsigned>((count + threads - 1) / threads);
  add<<<blocks, threads, 0, static_cast<cudaStream_t>(stream)>>>(x, y, sum, count);
  error = cudaGetLastError();
  cudaSetDevice(before);
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}
