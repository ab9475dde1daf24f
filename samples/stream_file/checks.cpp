#include "checks.hpp"

#include <fmt/core.h>
#include <xxhash.h>

#include <algorithm>
#include <new>
#include <stdexcept>

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

void Checksum::Free::operator()(XXH3_state_s* state) const noexcept { XXH3_freeState(state); }

Checksum::Checksum() : state_(XXH3_createState()) {
  if (state_ == nullptr) throw std::bad_alloc();
  XXH3_128bits_reset(state_.get());
}

void Checksum::add(Bytes bytes) {
  if (!bytes.empty()) XXH3_128bits_update(state_.get(), bytes.data(), bytes.size());
}

std::string Checksum::text() const {
  const XXH128_hash_t hash = XXH3_128bits_digest(state_.get());
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

void Pass::verify() const {
  if (checksum_read != checksum_back)
    throw std::runtime_error(fmt::format("what came back is not what was read: xxh128 {} against {}, of {} bytes",
                                         checksum_back, checksum_read, bytes));
  const auto [cpu, device] = std::mismatch(on_cpu.begin(), on_cpu.end(), on_device.begin());
  if (cpu != on_cpu.end())
    throw std::runtime_error(fmt::format("the device's histogram is not the CPU's: it has {} bytes of value {}, not {}",
                                         *device, cpu - on_cpu.begin(), *cpu));
}

}  // namespace stream_file
