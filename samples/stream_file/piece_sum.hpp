#pragma once

// The cheap check: a sum of 64 bits that the CPU and a kernel make alike, at about the speed of memory. Included by
// nvcc, too.
//
// Each word of eight bytes is mixed with a key made of its place in the job, and the halves are multiplied (one
// multiply of 32 by 32 bits, which a CPU does for several words at once). The products are added, so that pieces may be
// summed in any order, by any number of threads, and in parts; and since the key is of the place, bytes or pieces that
// are swapped, shifted or left out show. It is made against errors, not against people.

#include <cstddef>
#include <cstdint>

#ifdef __CUDACC__
#define STREAM_FILE_BOTH __host__ __device__
#else
#define STREAM_FILE_BOTH
#endif

namespace stream_file {

constexpr std::uint64_t sum_step = 0x9e3779b97f4a7c15;  // odd: no two places share a key

/// The key of the word that starts at byte `position` of the job.
STREAM_FILE_BOTH constexpr std::uint64_t sum_key(std::uint64_t position) { return (position + 1) * sum_step; }

/// What one word adds to the sum. The mixed word itself is added to the product, so that no half of 0 hides the other.
STREAM_FILE_BOTH constexpr std::uint64_t sum_term(std::uint64_t word, std::uint64_t key) {
  const std::uint64_t mixed = word ^ key;
  return (mixed & 0xffffffff) * (mixed >> 32) + mixed;
}

/// A word of the `count` bytes (8 at most) at `data`, the rest of it 0.
STREAM_FILE_BOTH inline std::uint64_t sum_word(const unsigned char* data, std::size_t count) {
  std::uint64_t word = 0;
  for (std::size_t i = 0; i < count; ++i) word |= std::uint64_t{data[i]} << (8 * i);
  return word;
}

}  // namespace stream_file
