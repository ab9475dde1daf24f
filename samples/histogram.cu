#include "histogram.hpp"

#include <algorithm>
#include <cstdint>

namespace {

constexpr unsigned threads = 256;
constexpr unsigned tables = threads / 32;  // one for each warp, so that warps do not wait for each other's bins
constexpr unsigned values = 256;

__device__ void count_word(unsigned* table, unsigned word) {
  atomicAdd(&table[word & 0xff], 1U);
  atomicAdd(&table[(word >> 8) & 0xff], 1U);
  atomicAdd(&table[(word >> 16) & 0xff], 1U);
  atomicAdd(&table[word >> 24], 1U);
}

__global__ void count_bytes(const unsigned char* data, std::size_t size, unsigned long long* counts) {
  __shared__ unsigned shared[tables][values];
  for (unsigned i = threadIdx.x; i < tables * values; i += threads) (&shared[0][0])[i] = 0;
  __syncthreads();

  unsigned* const mine = shared[threadIdx.x / 32];
  const std::size_t first = std::size_t{blockIdx.x} * threads + threadIdx.x;
  const std::size_t stride = std::size_t{gridDim.x} * threads;

  const bool aligned = reinterpret_cast<std::uintptr_t>(data) % sizeof(uint4) == 0;
  const std::size_t vectors = aligned ? size / sizeof(uint4) : 0;
  for (std::size_t i = first; i < vectors; i += stride) {
    const uint4 four = reinterpret_cast<const uint4*>(data)[i];
    count_word(mine, four.x);
    count_word(mine, four.y);
    count_word(mine, four.z);
    count_word(mine, four.w);
  }
  for (std::size_t i = vectors * sizeof(uint4) + first; i < size; i += stride) atomicAdd(&mine[data[i]], 1U);
  __syncthreads();

  for (unsigned value = threadIdx.x; value < values; value += threads) {
    unsigned long long sum = 0;
    for (unsigned t = 0; t < tables; ++t) sum += shared[t][value];
    if (sum != 0) atomicAdd(&counts[value], sum);
  }
}

}  // namespace

const char* launch_byte_histogram(int ordinal, void* stream, const unsigned char* data, std::size_t size,
                                  unsigned long long* counts) {
  if (size == 0) return nullptr;
  // A kernel starts only in a stream of the calling thread's current device.
  int before = 0;
  cudaError_t error = cudaGetDevice(&before);
  if (error == cudaSuccess) error = cudaSetDevice(ordinal);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  constexpr std::size_t bytes_per_block = std::size_t{threads} * sizeof(uint4) * 8;
  const auto blocks =
      static_cast<unsigned>(std::min<std::size_t>((size + bytes_per_block - 1) / bytes_per_block, 2048));
  count_bytes<<<blocks, threads, 0, static_cast<cudaStream_t>(stream)>>>(data, size, counts);
  error = cudaGetLastError();
  cudaSetDevice(before);
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}
