#pragma once

// Sizes as the caches see them: multiples of 64 bytes up to 512, then eight steps to a doubling, so that rounding
// wastes at most an eighth. Above 64 KiB a block has whole pages and its class only says where to look for it.

#include <bit>
#include <cstddef>

#include "base/bytes.hpp"

namespace thole::detail::size_class {

inline constexpr std::size_t largest_exact = std::size_t{64} << 10;
inline constexpr std::size_t count = 8 + 8 * 31;  // up to 1 TiB

/// Bytes to ask the store for.
constexpr std::size_t round_up(std::size_t bytes) noexcept {
  if (bytes > largest_exact) return whole_pages(bytes);
  return detail::round_up(bytes, bytes > 512 ? std::bit_floor(bytes - 1) / 8 : granule);
}

/// The class of a block: the largest whose size it reaches. `bytes` is at least 64.
constexpr std::size_t index(std::size_t bytes) noexcept {
  if (bytes < 512) return bytes / granule - 1;
  const auto doubling = static_cast<std::size_t>(std::bit_width(bytes)) - 10;  // 0 for 512
  const std::size_t found = 7 + doubling * 8 + (bytes - (std::size_t{512} << doubling)) / (granule << doubling);
  return found < count ? found : count - 1;
}

/// The size of a class: the least that its blocks have.
constexpr std::size_t smallest(std::size_t index) noexcept {
  if (index < 7) return (index + 1) * granule;
  const std::size_t doubling = (index - 7) / 8;
  return (std::size_t{512} << doubling) + (index - 7) % 8 * (granule << doubling);
}

/// How many free blocks of one class a thread keeps at most. Small blocks: 16 MiB of them, so that all of a deep queue
/// of copies can come back at once and be used again.
constexpr std::size_t kept(std::size_t index) noexcept {
  constexpr std::size_t small_bytes = std::size_t{16} << 20;
  constexpr std::size_t large_bytes = std::size_t{64} << 20;
  const std::size_t bytes = smallest(index);
  if (bytes <= largest_exact) return small_bytes / bytes;
  return bytes < (std::size_t{1} << 20) ? 4 : bytes < large_bytes ? 2 : 1;
}

/// How many blocks to take from the store at once when a thread has none.
constexpr std::size_t batch(std::size_t bytes) noexcept { return bytes <= page ? 16 : bytes <= largest_exact ? 4 : 1; }

/// Whether a block of the class is large enough for a request, and not too large.
constexpr bool fits(std::size_t capacity, std::size_t wanted) noexcept {
  return capacity >= wanted && (wanted <= largest_exact || capacity - wanted <= wanted / 64);
}

}  // namespace thole::detail::size_class
