#pragma once

// Free blocks on their way: taken from one place (a stream's queue, a graph, a thread's cache, the store) and not yet
// put into the next. Whoever finds no memory asks here whether some passed by while it looked.

#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>
#include <utility>

#include "base/immortal.hpp"
#include "blocks/block.hpp"

namespace thole::inline v0_1::detail {

/// A list of blocks in transit. Blocks are pushed under the lock of the place that they leave, so that whoever looks
/// there next, and misses them, sees that they are on their way. Costs nothing while it is empty.
class MovingBlocks {
 public:
  MovingBlocks() = default;
  /// All have been put where others find them.
  ~MovingBlocks() {
    if (counted_ == nullptr) return;
    counted_->arrivals.fetch_add(1, std::memory_order_relaxed);
    counted_->under_way.fetch_sub(1, std::memory_order_release);  // pairs with MemorySearch::missed_some()
  }
  MovingBlocks(const MovingBlocks&) = delete;
  MovingBlocks& operator=(const MovingBlocks&) = delete;

  /// For blocks that do not go through the list.
  void begin() noexcept {
    if (counted_ != nullptr) return;
    counted_ = &immortal<Lists>();
    counted_->under_way.fetch_add(1, std::memory_order_relaxed);  // released by the lock of the place
  }
  /// There were none after all.
  void cancel() noexcept {
    if (Lists* const counted = std::exchange(counted_, nullptr); counted != nullptr)
      counted->under_way.fetch_sub(1, std::memory_order_release);  // see heap/quota.hpp
  }
  bool empty() const noexcept { return blocks_.empty(); }
  void push(Block* block) noexcept {
    begin();
    blocks_.push(block);
  }
  Block* pop() noexcept { return blocks_.pop(); }
  void splice(BlockList& other) noexcept {
    if (!other.empty()) begin();
    blocks_.splice(other);
  }

  static bool any() noexcept { return immortal<Lists>().under_way.load(std::memory_order_acquire) != 0; }
  /// Waits until none are on their way, so that those that were are where others find them. Gives up after a tenth of a
  /// second, since busy threads always move some. Sleeps between looks: the thread that has some may need the
  /// processor.
  static void wait_for_arrival() noexcept {
    constexpr int yields = 1000, pauses = 1000;
    for (int i = 0; i != yields + pauses && any(); ++i)
      if (i < yields)
        std::this_thread::yield();
      else
        std::this_thread::sleep_for(std::chrono::microseconds(100));
  }

 private:
  friend class MemorySearch;
  /// All that there are in this process: those that its parent's other threads had at the fork never arrive.
  struct alignas(64) Lists {
    std::atomic<std::uint64_t> under_way{0};
    std::atomic<std::uint64_t> arrivals{0};  // ever
    static std::uint64_t arrived() noexcept { return immortal<Lists>().arrivals.load(std::memory_order_acquire); }
  };

  BlockList blocks_;
  Lists* counted_ = nullptr;  // where it is counted, once it has begun
};

/// A look into every place, one after the other, from its construction on.
class MemorySearch {
 public:
  /// Whether blocks went from a place that had not been looked at yet to one that had been: they may have been missed.
  bool missed_some() const noexcept {
    return MovingBlocks::any() || MovingBlocks::Lists::arrived() != arrivals_before_;
  }

 private:
  std::uint64_t arrivals_before_ = MovingBlocks::Lists::arrived();
};

}  // namespace thole::inline v0_1::detail
