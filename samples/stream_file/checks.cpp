#include "checks.hpp"

#include <fmt/core.h>
#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "piece_sum.hpp"

namespace stream_file {

void count_bytes(Bytes bytes, Histogram& counts) {
  // Four tables in turn: equal neighbours would otherwise wait for each other's increment.
  std::array<Histogram, 4> tables{};
  const unsigned char* at = bytes.data();
  std::size_t left = bytes.size();
  for (; left >= 4; left -= 4, at += 4) {
    ++tables[0][at[0]];
    ++tables[1][at[1]];
    ++tables[2][at[2]];
    ++tables[3][at[3]];
  }
  for (; left > 0; --left, ++at) ++tables[0][*at];
  for (std::size_t value = 0; value < counts.size(); ++value)
    counts[value] += tables[0][value] + tables[1][value] + tables[2][value] + tables[3][value];
}

std::uint64_t piece_sum(Bytes bytes, std::uint64_t position) noexcept {
  const unsigned char* const data = bytes.data();
  const std::size_t words = bytes.size() / 8;
  std::uint64_t sum = 0;
  std::uint64_t key = sum_key(position);
  for (std::size_t i = 0; i < words; ++i, key += 8 * sum_step) {  // compilers do several words at once
    std::uint64_t word;
    std::memcpy(&word, data + i * 8, sizeof word);
    sum += sum_term(word, key);
  }
  if (bytes.size() % 8 != 0) sum += sum_term(sum_word(data + words * 8, bytes.size() % 8), key);
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
