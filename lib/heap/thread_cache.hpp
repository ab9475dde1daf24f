#pragma once

// The free blocks that one thread keeps of one heap, by size class, and that thread's counts. The thread needs no
// atomic read-modify-write for them (owner_lock.hpp); another that is short of memory takes what it finds: what an idle
// thread keeps is everybody's.

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/spin_lock.hpp"
#include "blocks/block.hpp"
#include "blocks/moving_blocks.hpp"
#include "heap/size_class.hpp"
#include "streams/timeline.hpp"

namespace thole::detail {

/// A count that one thread at a time writes and others read.
class Count {
 public:
  void add(std::uint64_t amount) noexcept {
    value_.store(value_.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
  }
  std::uint64_t get() const noexcept { return value_.load(std::memory_order_relaxed); }
  void reset() noexcept { value_.store(0, std::memory_order_relaxed); }

 private:
  std::atomic<std::uint64_t> value_{0};
};

/// What one thread has done in one heap. Bytes are capacities. Written under the cache's lock.
struct Counts {
  Count made, made_bytes, made_waste;        ///< waste: capacity beyond what was asked for
  Count let_go, let_go_bytes, let_go_waste;  ///< nobody holds it any more
  Count at_once;                             ///< of those, the ones that nothing was in flight for
  Count deferred_bytes;
  Count recycled, recycled_bytes;  ///< deferred ones that came back
  Count waited;

  void reset() noexcept;
};

class alignas(64) ThreadCache {
 public:
  /// Around every call below. The thread that owns the cache takes it all the time, others hardly ever.
  SpinLock lock;

  /// A block of at least `bytes` (rounded by size_class) at a multiple of `alignment`, or nullptr.
  Block* take(std::size_t bytes, std::size_t alignment) noexcept {
    const std::size_t index = size_class::index(bytes);
    // Up to largest_exact all blocks of a class fit, and the first is nearly always aligned.
    if (Block* const block = lists_[index].first; block != nullptr && fits(*block, bytes, alignment)) [[likely]] {
      take_out(lists_[index], &lists_[index].first);
      return block;
    }
    return take_slowly(index, bytes, alignment);
  }
  /// False when the cache keeps enough of the class, or `large_limit` bytes of large blocks of all classes together:
  /// each is a hole that cannot join its neighbours.
  bool put(Block* block, std::size_t large_limit) noexcept {
    List& list = lists_[size_class::index(block->capacity)];
    if (list.count >= size_class::kept(size_class::index(block->capacity))) [[unlikely]]
      return false;
    if (block->capacity > size_class::largest_exact) {
      if (large_bytes_ + block->capacity > large_limit) return false;
      large_bytes_ += block->capacity;
    }
    block->next = list.first;
    list.first = block;
    ++list.count;
    return true;
  }
  /// Moves blocks to `out` so that there is room for this one: half of its class, or all large ones.
  void make_room(const Block& block, MovingBlocks& out) noexcept;
  /// Moves everything to `out`.
  void give_all(MovingBlocks& out) noexcept;
  /// Bytes that it keeps, at least.
  std::size_t bytes() const noexcept;

  void note_recent(const std::shared_ptr<Timeline>& timeline) noexcept {
    if (recent_address_ == timeline.get() && !recent.expired()) return;
    recent_address_ = timeline.get();
    recent = timeline;
  }

  Counts counts;
  std::weak_ptr<Timeline> recent;  ///< where the thread last left a block
  /// Blocks that came back for good: the heap ends when all have.
  std::uint64_t returned = 0;

  ThreadCache* next = nullptr;  ///< all caches of the heap; set once
  bool owned = false;           ///< by a thread; under the heap's mutex

 private:
  struct List {
    Block* first = nullptr;
    std::size_t count = 0;
  };
  static bool fits(const Block& block, std::size_t bytes, std::size_t alignment) noexcept {
    return size_class::fits(block.capacity, bytes) &&
           (reinterpret_cast<std::uintptr_t>(block.data) & (alignment - 1)) == 0;
  }
  Block* take_out(List& list, Block** link) noexcept {
    Block* const block = *link;
    *link = block->next;
    --list.count;
    if (block->capacity > size_class::largest_exact) large_bytes_ -= block->capacity;
    return block;
  }
  Block* take_slowly(std::size_t index, std::size_t bytes, std::size_t alignment) noexcept;

  std::size_t large_bytes_ = 0;
  const Timeline* recent_address_ = nullptr;  // of `recent`, to compare
  std::array<List, size_class::count> lists_{};
};

}  // namespace thole::detail
