#pragma once

// The free blocks that one thread keeps of one heap, by size class, and that thread's share of the heap's counts. A
// cache has a lock, and whoever holds it may take from the cache or empty it: another thread that is short of memory
// takes what an idle one keeps.

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/bytes.hpp"
#include "base/spin_lock.hpp"
#include "blocks/block.hpp"
#include "blocks/moving_blocks.hpp"
#include "heap/counters.hpp"
#include "heap/size_class.hpp"
#include "streams/timeline.hpp"

namespace thole::detail {

struct HeapCore;

/// Thread safety: every call, and the counts, under `lock`.
class alignas(64) ThreadCache {
 public:
  explicit ThreadCache(HeapCore* its_heap = nullptr) noexcept : heap(its_heap) {}

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
  /// Keeps the block. False when the cache has enough of its class, or `large_limit` bytes of large blocks of all
  /// classes together: each of those is a hole in the arena that cannot join its neighbours.
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
  /// Moves all blocks to `out`.
  void flush(MovingBlocks& out) noexcept;
  /// Bytes that it keeps, at least.
  std::size_t bytes() const noexcept;

  void note_recent(const std::shared_ptr<Timeline>& timeline) noexcept {
    if (recent_address_ == timeline.get() && !recent.expired()) return;
    recent_address_ = timeline.get();
    recent = timeline;
  }

  Counts counts;
  std::weak_ptr<Timeline> recent;  ///< where the thread last left a block
  /// How many blocks have come back for good: cached or freed. The heap ends when as many have as it has made.
  std::uint64_t returned = 0;

  HeapCore* const heap;         ///< whose cache it is, in all lives of that object
  ThreadCache* next = nullptr;  ///< in the list of the heap's caches; set once
  bool owned = false;           ///< by a thread; under the heap's mutex

 private:
  struct List {
    Block* first = nullptr;
    std::size_t count = 0;
  };
  static bool fits(const Block& block, std::size_t bytes, std::size_t alignment) noexcept {
    return size_class::fits(block.capacity, bytes) && is_aligned(block.data, alignment);
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
