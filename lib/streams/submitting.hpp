#pragma once

// The calls that are submitting uses of one piece of device memory at the moment. Such a call looks at the memory's
// earlier uses first and notes its own last, so that two which conflict would miss each other, and the device would be
// told no order between them. Pinned memory has its borrows for that; device memory has this.

#include <atomic>
#include <cstdint>

namespace thole::inline v0_1::detail {

/// Many that read, or one that writes.
///
/// Thread safety: any thread may call anything.
class Submitting {
 public:
  /// False: a call is under way that conflicts. `runs_function`: the caller runs a function of the program's meanwhile.
  /// `own_readers`: so many of those that read are the caller's own. Acquire: pairs with end(), so that the caller sees
  /// the uses that were noted.
  bool begin(bool writes, bool runs_function, std::uint64_t own_readers = 0) noexcept {
    auto word = word_.load(std::memory_order_relaxed);
    do {
      if ((word & writer) != 0 || (writes && (word & readers) != own_readers)) return false;
    } while (!word_.compare_exchange_weak(word, word + amount(writes, runs_function), std::memory_order_acquire,
                                          std::memory_order_relaxed));
    return true;
  }
  void end(bool writes, bool runs_function) noexcept {
    word_.fetch_sub(amount(writes, runs_function), std::memory_order_release);
  }
  /// Whether one of them runs a function of the program's, which may take as long as it likes; a guess. `own`: so many
  /// of those that do are the caller's own.
  bool runs_function(std::uint64_t own = 0) const noexcept {
    return word_.load(std::memory_order_relaxed) >= (own + 1) * function;
  }

 private:
  static constexpr std::uint64_t reader = 1;
  static constexpr std::uint64_t readers = 0xffffffff;
  static constexpr std::uint64_t writer = std::uint64_t{1} << 32;
  static constexpr std::uint64_t function = std::uint64_t{1} << 33;  // one for each

  static constexpr std::uint64_t amount(bool writes, bool runs_function) noexcept {
    return (writes ? writer : reader) + (runs_function ? function : 0);
  }

  std::atomic<std::uint64_t> word_{0};
};

}  // namespace thole::inline v0_1::detail
