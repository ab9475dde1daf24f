#include "checks.hpp"

#include <fmt/core.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <numeric>
#include <stdexcept>

#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "piece_sum.hpp"

namespace stream_file {

namespace {

std::uint64_t load_word(const unsigned char* data) {
  std::uint64_t word;
  std::memcpy(&word, data, sizeof word);
  return word;
}

#ifdef __x86_64__
// The same by hand, eight words at a time: not every compiler sees that the products are of 32 by 32 bits.

constexpr std::size_t lanes = 8;  // words at a time

/// The keys of the first words, the step to the next ones, and the sums.
struct Lanes {
  Lanes(std::uint64_t key) noexcept {
    for (std::size_t i = 0; i < lanes; ++i) keys[i] = key + 8 * i * sum_step;
  }
  std::array<std::uint64_t, lanes> keys, sums{};
};

void sum_blocks(const unsigned char* data, std::size_t blocks, Lanes& of) {
  constexpr std::size_t vectors = lanes / 2;
  __m128i keys[vectors], sums[vectors];
  std::memcpy(keys, of.keys.data(), sizeof keys);
  std::memcpy(sums, of.sums.data(), sizeof sums);
  const __m128i step = _mm_set1_epi64x(static_cast<long long>(8 * lanes * sum_step));
  for (; blocks > 0; --blocks, data += 8 * lanes)
    for (std::size_t i = 0; i < vectors; ++i) {
      const __m128i mixed = _mm_xor_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(data) + i), keys[i]);
      sums[i] = _mm_add_epi64(sums[i], _mm_add_epi64(_mm_mul_epu32(mixed, _mm_srli_epi64(mixed, 32)), mixed));
      keys[i] = _mm_add_epi64(keys[i], step);
    }
  std::memcpy(of.sums.data(), sums, sizeof sums);
}

/// Twice as fast, on processors that have it.
__attribute__((target("avx2"))) void sum_blocks_avx2(const unsigned char* data, std::size_t blocks, Lanes& of) {
  constexpr std::size_t vectors = lanes / 4;
  __m256i keys[vectors], sums[vectors];
  std::memcpy(keys, of.keys.data(), sizeof keys);
  std::memcpy(sums, of.sums.data(), sizeof sums);
  const __m256i step = _mm256_set1_epi64x(static_cast<long long>(8 * lanes * sum_step));
  for (; blocks > 0; --blocks, data += 8 * lanes)
    for (std::size_t i = 0; i < vectors; ++i) {
      const __m256i mixed = _mm256_xor_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(data) + i), keys[i]);
      sums[i] =
          _mm256_add_epi64(sums[i], _mm256_add_epi64(_mm256_mul_epu32(mixed, _mm256_srli_epi64(mixed, 32)), mixed));
      keys[i] = _mm256_add_epi64(keys[i], step);
    }
  std::memcpy(of.sums.data(), sums, sizeof sums);
}

/// Sums the whole blocks, and leaves what is behind them.
std::uint64_t sum_of_blocks(const unsigned char*& data, std::size_t& words, std::uint64_t& key) {
  static const bool has_avx2 = __builtin_cpu_supports("avx2");
  const std::size_t blocks = words / lanes, summed = blocks * lanes;
  Lanes of(key);
  (has_avx2 ? sum_blocks_avx2 : sum_blocks)(data, blocks, of);
  data += 8 * summed;
  key += 8 * summed * sum_step;
  words -= summed;
  return std::accumulate(of.sums.begin(), of.sums.end(), std::uint64_t{0});
}
#endif

}  // namespace

void count_bytes(Bytes bytes, Histogram& counts) {
  constexpr std::size_t most_at_once = std::size_t{1} << 30;  // so that 32 bits are enough
  while (!bytes.empty()) {
    const Bytes part = bytes.first(std::min(bytes.size(), most_at_once));
    bytes = bytes.subspan(part.size());
    // Four tables in turn: equal neighbours would otherwise wait for each other's increment.
    std::array<std::array<std::uint32_t, 256>, 4> tables{};
    const unsigned char* at = part.data();
    const unsigned char* const end = at + part.size();
    for (; end - at >= 8; at += 8) {
      const std::uint64_t word = load_word(at);
      for (unsigned i = 0; i < 8; ++i) ++tables[i % 4][word >> (8 * i) & 0xff];
    }
    for (; at != end; ++at) ++tables[0][*at];
    for (std::size_t value = 0; value < counts.size(); ++value)
      counts[value] += std::uint64_t{tables[0][value]} + tables[1][value] + tables[2][value] + tables[3][value];
  }
}

std::uint64_t piece_sum(Bytes bytes, std::uint64_t position) noexcept {
  const unsigned char* data = bytes.data();
  std::size_t words = bytes.size() / 8;
  std::uint64_t key = sum_key(position);
  std::uint64_t sum = 0;
#ifdef __x86_64__
  sum = sum_of_blocks(data, words, key);
#endif
  for (; words > 0; --words, data += 8, key += 8 * sum_step) sum += sum_term(load_word(data), key);
  if (bytes.size() % 8 != 0) sum += sum_term(sum_word(data, bytes.size() % 8), key);
  return sum;
}

PieceHash::PieceHash(Bytes bytes, std::uint64_t position) noexcept {
  const XXH128_hash_t hash = XXH3_128bits_withSeed(bytes.data(), bytes.size(), position);
  high = hash.high64;
  low = hash.low64;
}

void Findings::look_at(Bytes bytes, std::uint64_t position, Check check) {
  if (check != Check::none) sum += piece_sum(bytes, position);
  if (check == Check::full) count_bytes(bytes, histogram);
}

void Findings::add(const PieceHash& hash) noexcept {
  hashes.high += hash.high;
  hashes.low += hash.low;
}

void Findings::add(const Findings& other) noexcept {
  sum += other.sum;
  std::transform(histogram.begin(), histogram.end(), other.histogram.begin(), histogram.begin(), std::plus<>());
  add(other.hashes);
}

void verify(const Findings& cpu, const Findings& device, Check check) {
  if (check == Check::none) return;
  if (cpu.sum != device.sum)
    throw std::runtime_error(fmt::format("what the device has is not what was read: its sum is {}, not {}",
                                         as_text(device.sum), as_text(cpu.sum)));
  if (check != Check::full) return;
  const auto [ours, its] = std::mismatch(cpu.histogram.begin(), cpu.histogram.end(), device.histogram.begin());
  if (ours != cpu.histogram.end())
    throw std::runtime_error(fmt::format("the device's histogram is not the CPU's: it has {} bytes of value {}, not {}",
                                         *its, ours - cpu.histogram.begin(), *ours));
}

std::string as_text(std::uint64_t sum) { return fmt::format("{:016x}", sum); }
std::string as_text(const PieceHash& hash) { return fmt::format("{:016x}{:016x}", hash.high, hash.low); }

}  // namespace stream_file
