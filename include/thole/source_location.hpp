#pragma once

#include <bit>
#include <cstdint>
#include <source_location>
#include <type_traits>

#include <thole/export.hpp>

/// A default argument: where the call stands.
#ifdef __cpp_lib_source_location
#define THOLE_HERE std::source_location::current()
#else  // clang 14
#define THOLE_HERE ::thole::SourceLocation(__builtin_FILE(), static_cast<unsigned>(__builtin_LINE()))
#endif

namespace thole::inline v0_1 {

/// A place in a program, as `std::source_location`, which converts to it. It is one word, and the same for every
/// compiler, so that a program and a library that two compilers made understand each other. The texts live as long as
/// the code that they name is loaded.
///
/// Thread safety: plain data.
class SourceLocation {
 public:
  /// Nowhere: empty texts, line 0.
  constexpr SourceLocation() noexcept = default;
#ifdef __cpp_lib_source_location
  /// The same place.
  SourceLocation(const std::source_location& where) noexcept : word_(std::bit_cast<std::uint64_t>(where)) {
    static_assert(sizeof(std::source_location) == sizeof(std::uint64_t));
  }
#endif
  /// For compilers that have no std::source_location: the file and the line, up to 32,767, are all that is known.
  SourceLocation(const char* file, unsigned line) noexcept
      : word_(packed | std::uint64_t{line < most_lines ? line : most_lines} << address_bits |
              (reinterpret_cast<std::uint64_t>(file) & addresses)) {}

  /// The file, as the compiler was given it; empty where it is not known.
  const char* file_name() const noexcept {
    if ((word_ & packed) != 0) return reinterpret_cast<const char*>(word_ & addresses);
    return word_ != 0 ? full()->file : "";
  }
  /// The function; empty where it is not known.
  const char* function_name() const noexcept { return is_full() ? full()->function : ""; }
  /// Counted from 1; 0 where it is not known, as below.
  std::uint32_t line() const noexcept {
    if ((word_ & packed) != 0) return static_cast<std::uint32_t>((word_ & ~packed) >> address_bits);
    return word_ != 0 ? full()->line : 0;
  }
  /// Counted from 1; 0 where it is not known.
  std::uint32_t column() const noexcept { return is_full() ? full()->column : 0; }

 private:
  // What compilers let a std::source_location point to.
  struct Full {
    const char* file;
    const char* function;
    unsigned line;
    unsigned column;
  };
  // Else the word is bit 63, 15 bits of the line, 48 of the file's address.
  static constexpr int address_bits = 48;
  static constexpr std::uint64_t packed = std::uint64_t{1} << 63;
  static constexpr std::uint64_t addresses = (std::uint64_t{1} << address_bits) - 1;
  static constexpr unsigned most_lines = 0x7fff;

  bool is_full() const noexcept { return word_ != 0 && (word_ & packed) == 0; }
  const Full* full() const noexcept { return reinterpret_cast<const Full*>(word_); }

  std::uint64_t word_ = 0;
};

}  // namespace thole::inline v0_1
