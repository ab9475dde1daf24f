#include "piece_sum.hpp"

#include <algorithm>

#include "stream_file/piece_sum.hpp"

namespace {

using stream_file::sum_key;
using stream_file::sum_term;
using stream_file::sum_word;

constexpr unsigned threads = 256;

/// The sum of this thread's words: those that follow `first`, `stride` words apart.
__device__ std::uint64_t words_of(const unsigned char* data, std::size_t words, std::uint64_t position,
                                  std::size_t first, std::size_t stride) {
  std::uint64_t sum = 0;
  if (reinterpret_cast<std::uintptr_t>(data) % sizeof(ulonglong2) == 0) {
    const auto* const pairs = reinterpret_cast<const ulonglong2*>(data);
    for (std::size_t i = first; i < words / 2; i += stride) {
      const ulonglong2 pair = pairs[i];
      const std::uint64_t key = sum_key(position + i * 16);
      sum += sum_term(pair.x, key) + sum_term(pair.y, key + 8 * stream_file::sum_step);
    }
    if (words % 2 != 0 && first == 0)
      sum += sum_term(sum_word(data + (words - 1) * 8, 8), sum_key(position + (words - 1) * 8));
  } else {
    for (std::size_t i = first; i < words; i += stride)
      sum += sum_term(sum_word(data + i * 8, 8), sum_key(position + i * 8));
  }
  return sum;
}

__global__ void sum_piece(const unsigned char* data, std::size_t size, std::uint64_t position,
                          unsigned long long* result) {
  const std::size_t first = std::size_t{blockIdx.x} * threads + threadIdx.x;
  const std::size_t words = size / 8;
  std::uint64_t sum = words_of(data, words, position, first, std::size_t{gridDim.x} * threads);
  if (first == 0 && size % 8 != 0) sum += sum_term(sum_word(data + words * 8, size % 8), sum_key(position + words * 8));

  for (int other = 16; other > 0; other /= 2) sum += __shfl_down_sync(0xffffffff, sum, other);
  __shared__ std::uint64_t warps[threads / 32];
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (unsigned i = 1; i < threads / 32; ++i) sum += warps[i];
    atomicAdd(result, static_cast<unsigned long long>(sum));
  }
}

}  // namespace

const char* launch_piece_sum(int ordinal, void* stream, const unsigned char* data, std::size_t size,
                             std::uint64_t position, unsigned long long* sum) {
  if (size == 0) return nullptr;
  // A kernel starts only in a stream of the calling thread's current device.
  int before = 0;
  cudaError_t error = cudaGetDevice(&before);
  if (error == cudaSuccess) error = cudaSetDevice(ordinal);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  constexpr std::size_t bytes_per_block = std::size_t{threads} * sizeof(ulonglong2) * 8;
  const auto blocks = static_cast<unsigned>(std::min<std::size_t>((size + bytes_per_block - 1) / bytes_per_block, 256));
  sum_piece<<<blocks, threads, 0, static_cast<cudaStream_t>(stream)>>>(data, size, position, sum);
  error = cudaGetLastError();
  cudaSetDevice(before);
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}
