#pragma once

// What a heap may have of its arena's memory (HeapOptions::max_bytes). Blocks that the program holds, that wait for the
// device and that threads keep in the heap's caches count alike, so that making and dropping, which move blocks between
// these, count nothing: only who brings blocks into the heap, or takes them out of it, comes here.
//
// Who does not know yet how much he will bring takes more for a moment. He is among the MovingBlocks meanwhile, so that
// another one who finds no room, and asks for these, looks again: they end after what was too much is given back.

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace thole::inline v0_1::detail {

/// Thread safety: any thread, at any time, but for begin(). The figure is exact since it is changed by one atomic
/// operation at a time. Who reads what take() has written sees also that its caller is among the MovingBlocks.
class Quota {
 public:
  /// A heap begins, which has nothing. 0: it may have all there is.
  void begin(std::size_t limit) noexcept {
    limit_ = limit;
    taken_.store(0, std::memory_order_relaxed);
  }
  bool limited() const noexcept { return limit_ != 0; }
  std::size_t limit() const noexcept { return limit_; }
  std::size_t taken() const noexcept { return taken_.load(std::memory_order_acquire); }
  bool has_room(std::size_t bytes) const noexcept { return !limited() || fits(taken(), bytes); }

  /// How often anybody began to take, ever. Who finds no room, and no MovingBlocks before that, and that nobody began
  /// meanwhile, knows that there was none: no one had more than he needs. Acquire: pairs with take().
  std::uint64_t turns() const noexcept { return turns_.load(std::memory_order_acquire); }

  /// Counts so many bytes, unless they are too many.
  bool take(std::size_t bytes) noexcept {
    turns_.fetch_add(1, std::memory_order_release);  // the caller is among the MovingBlocks already
    std::size_t before = taken();
    do
      if (!fits(before, bytes)) return false;
    while (!taken_.compare_exchange_weak(before, before + bytes, std::memory_order_acq_rel));
    return true;
  }
  void give(std::size_t bytes) noexcept { taken_.fetch_sub(bytes, std::memory_order_release); }

 private:
  bool fits(std::size_t before, std::size_t bytes) const noexcept {
    return before <= limit_ && bytes <= limit_ - before;
  }

  std::size_t limit_ = 0;
  std::atomic<std::size_t> taken_{0};
  std::atomic<std::uint64_t> turns_{0};
};

}  // namespace thole::inline v0_1::detail
