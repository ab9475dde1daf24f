#pragma once

#include <cstddef>
#include <string>
#include <system_error>
#include <type_traits>
#include <utility>

#include <tl/expected.hpp>

#include <thole/export.hpp>

namespace thole::inline v0_1 {

/// What went wrong: the code of an `Error`. The text of the `Error` that carries it names the object, the call and the
/// numbers. Code that knows nothing of thole compares with `std::errc`: what each equals stands in brackets.
enum class Errc {
  invalid_argument = 1,  ///< A count, option or name that cannot be meant. [invalid_argument]
  out_of_memory,         ///< No pinned or device memory is left for the request. [not_enough_memory]
  limit,         ///< The system would not map or pin it (RLIMIT_MEMLOCK, a container's limit). [not_enough_memory]
  too_large,     ///< More than the arena could ever hold, or `n * sizeof(T)` overflows. [value_too_large]
  too_small,     ///< A destination that holds fewer elements than the source. [no_buffer_space]
  borrowed,      ///< A live `Borrow` or `BorrowMut` forbids the call. [device_or_resource_busy]
  in_flight,     ///< A `try_` call would have had to wait for the device. [operation_would_block]
  timed_out,     ///< The time that the caller gave has passed. [timed_out]
  moved_from,    ///< The handle has been moved from and owns nothing. [invalid_argument]
  wrong_device,  ///< Objects of two devices met in one call. [cross_device_link]
  no_device,     ///< There is no such device. [no_such_device]
  capturing,     ///< The answer cannot be had until a graph capture has ended. [operation_in_progress]
  device_lost,   ///< The device has failed for good; nothing more runs on it. [no_such_device_or_address]
  device_error,  ///< The device refused one call; its own words are in the text. [io_error]
};

/// The category of `Errc`, named "thole".
THOLE_EXPORT const std::error_category& error_category() noexcept;

inline std::error_code make_error_code(Errc code) noexcept { return {static_cast<int>(code), error_category()}; }

/// Every failure that thole reports. `what()` names the object, the call, the numbers and, where the device
/// was involved, CUDA's own name and text for the failure. Copies share the text: copying never fails.
///
/// Thread safety: const members of one object may be called by many threads at once; others need exclusive access.
class [[nodiscard]] THOLE_EXPORT Error : public std::system_error {
 public:
  /// Throws std::bad_alloc where there is no memory for the text.
  Error(Errc code, const std::string& text) : std::system_error(make_error_code(code), text) {}
  /// With the text that `text()` returns as a std::string. Never throws: where there is no memory for it, the Error has
  /// the code all the same, and a text that says so.
  template <class F>
  static Error make(Errc code, F&& text) noexcept {
#ifdef __cpp_exceptions
    try {
      return Error(code, std::forward<F>(text)());
    } catch (...) {
      return without_text(code);
    }
#else
    return Error(code, std::forward<F>(text)());
#endif
  }

  /// The code, as the enumeration.
  Errc errc() const noexcept { return static_cast<Errc>(code().value()); }

 private:
  static Error without_text(Errc code) noexcept;
};

/// What every `try_` function returns: the value, or the `Error` that its throwing twin would have thrown.
template <class T>
using Result = tl::expected<T, Error>;

namespace detail {

/// Throws it, also for a program that is built without exceptions, which it ends.
[[noreturn]] THOLE_EXPORT void throw_error(Error error);

/// Returns the value or throws the error.
template <class T>
T unwrap(Result<T>&& result) {
  if (!result) [[unlikely]]
    throw_error(std::move(result.error()));
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

/// `Errc::moved_from`: `object`, as "the heap", owns nothing.
THOLE_EXPORT Error moved_from(const char* call, const char* object) noexcept;
/// Throws `Errc::invalid_argument`: `count` elements from `offset` on are not among the `size` there are.
[[noreturn]] THOLE_EXPORT void throw_outside(const char* call, std::size_t offset, std::size_t count, std::size_t size);

}  // namespace detail

}  // namespace thole::inline v0_1

template <>
struct std::is_error_code_enum<thole::Errc> : std::true_type {};
