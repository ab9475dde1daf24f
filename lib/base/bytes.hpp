#pragma once

// Sizes: the units that memory comes in, rounding, and bytes in words.

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>

namespace thole::inline v0_1::detail {

inline constexpr std::size_t page = 4096;
inline constexpr std::size_t huge_page = std::size_t{2} << 20;
/// The least that a block of pinned memory is aligned to, and a multiple of which it takes: a line of the CPU's caches.
inline constexpr std::size_t granule = 64;

/// The multiples of `unit` beside `bytes`; the largest there is where the next one cannot be said.
constexpr std::size_t round_down(std::size_t bytes, std::size_t unit) noexcept { return bytes / unit * unit; }
constexpr std::size_t round_up(std::size_t bytes, std::size_t unit) noexcept {
  const std::size_t most = round_down(std::numeric_limits<std::size_t>::max(), unit);
  return bytes > most ? most : round_down(bytes + (unit - 1), unit);
}
constexpr std::size_t whole_pages(std::size_t bytes) noexcept { return round_up(bytes, page); }

/// Whether the address is a multiple of `alignment`, a power of two.
inline bool is_aligned(const void* data, std::size_t alignment) noexcept {
  return (reinterpret_cast<std::uintptr_t>(data) & (alignment - 1)) == 0;
}
/// The nearest address of that alignment that is not below, or not above.
inline std::byte* align_up(std::byte* data, std::size_t alignment) noexcept {
  return data + (-reinterpret_cast<std::uintptr_t>(data) & (alignment - 1));
}
inline std::byte* align_down(std::byte* data, std::size_t alignment) noexcept {
  return data - (reinterpret_cast<std::uintptr_t>(data) & (alignment - 1));
}

/// "4096 bytes", for errors: it allocates nothing, since there may be no memory.
class BytesText {
 public:
  explicit BytesText(std::size_t bytes) noexcept;
  operator std::string_view() const noexcept { return {text_.data(), size_}; }

 private:
  std::array<char, 32> text_;
  std::size_t size_;
};

/// "1073741824 bytes (1 GiB)".
std::string bytes_text(std::size_t bytes);

}  // namespace thole::inline v0_1::detail
