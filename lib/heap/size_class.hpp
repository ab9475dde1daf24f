#pragma once

// Sizes as the caches see them: multiples of 64 bytes up to 512, then eight steps to a doubling, so that rounding
// wastes at most an eighth. Above 64 KiB a block has whole pages and its class only says where to look for it.

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "base/bytes.hpp"

namespace thole::inline v0_1::detail::size_class {

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

/// Below this class all blocks of one are of one size.
inline constexpr std::size_t first_mixed = index(largest_exact);

/// The most that can be asked for where so many bytes are free in one piece.
constexpr std::size_t round_down(std::size_t bytes) noexcept {
  return bytes > largest_exact || bytes < granule ? bytes : smallest(index(bytes));
}

/// The last class in which a block for a request of the class `index` may be: blocks of whole pages may be too small in
/// their class, and the next one has only larger ones.
constexpr std::size_t last_to_try(std::size_t index) noexcept {
  return index >= first_mixed && index + 1 < count ? index + 1 : index;
}

/// Whether a block of the class is large enough for a request, and not too large.
constexpr bool fits(std::size_t capacity, std::size_t wanted) noexcept {
  return capacity >= wanted && (wanted <= largest_exact || capacity - wanted <= wanted / 64);
}

/// No block of the class, the last one apart, has more bytes.
constexpr std::size_t largest(std::size_t index) noexcept {
  return index < first_mixed ? smallest(index) : smallest(index + 1);
}

/// How many blocks make a full list, which changes hands as a whole, in a cache that keeps `limit` bytes at most: so
/// many that taking turns at a lock costs nothing, also with large blocks where the cache may keep some.
constexpr std::size_t list_length(std::size_t index, std::size_t limit) noexcept {
  constexpr std::size_t most = 64;
  return std::clamp<std::size_t>(limit / 4 / smallest(index), 1, most);
}

/// How many blocks to take from the store at once when there are none elsewhere.
constexpr std::size_t batch(std::size_t bytes) noexcept { return bytes <= page ? 16 : bytes <= largest_exact ? 4 : 1; }

}  // namespace thole::inline v0_1::detail::size_class
