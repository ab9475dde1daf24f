#pragma once

// The free blocks that one thread keeps of one heap, by size class, and that thread's share of the heap's counts. All
// classes together keep a limited number of bytes. Of each class there are up to two lists, the one that is used and a
// full one, so that a thread which goes back and forth about the border does not go to the depot each time; what is
// more moves to the depot as a whole list. A cache has a lock, and whoever holds it may take from the cache or empty
// it: another thread that is short of memory takes what an idle one keeps.

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/bytes.hpp"
#include "base/spin_lock.hpp"
#include "blocks/block.hpp"
#include "blocks/moving_blocks.hpp"
#include "heap/counters.hpp"
#include "heap/depot.hpp"
#include "heap/quota.hpp"
#include "heap/size_class.hpp"
#include "streams/timeline.hpp"

namespace thole::inline v0_1::detail {

struct HeapCore;

/// Thread safety: every call but bytes(), and the counts, under `lock`.
class alignas(64) ThreadCache {
 public:
  explicit ThreadCache(HeapCore* its_heap = nullptr) noexcept : heap(its_heap) {}

  SpinLock lock;

  /// A block of at least `bytes` (rounded by size_class) at a multiple of `alignment`, or nullptr.
  Block* take(std::size_t bytes, std::size_t alignment) noexcept {
    const std::size_t index = size_class::index(bytes);
    BlockRun& list = classes_[index].used;
    // Up to largest_exact all blocks of a class fit, and the first is nearly always aligned.
    if (Block* const block = list.first; block != nullptr && fits(*block, bytes, alignment)) [[likely]]
      return take_out(list, &list.first);
    return take_slowly(index, bytes, alignment);
  }
  /// The same from a list of the depot, of which it keeps the rest. Not where the quota has no room for such a list.
  Block* take_from(Depot& depot, std::size_t bytes, std::size_t alignment) noexcept;
  /// Keeps the block. False: for that, others must make room.
  bool put(Block* block) noexcept {
    Class& at = classes_[size_class::index(block->capacity)];
    if (at.used.length >= at.full_length || bytes_ + block->capacity > limit_) [[unlikely]]
      return false;
    at.used.push(block);
    bytes_ += block->capacity;
    return true;
  }
  /// Keeps the block and moves lists to the depot for it. What neither keeps goes to `surplus`.
  void put_slowly(Block* block, Depot& depot, MovingBlocks& surplus) noexcept;
  /// How many bytes it may keep, and how large blocks: of all that its heap may have, and of its arena's capacity.
  void set_capacity(std::size_t capacity, std::size_t arena) noexcept;
  /// Takes all blocks: lists, linked by `next_list`. Where there are any, `moving` has begun.
  Block* take_all(MovingBlocks& moving) noexcept;
  /// Moves all blocks to the depot; what that does not keep to `surplus`.
  void give_all(Depot& depot, MovingBlocks& surplus) noexcept;
  /// Bytes that it keeps.
  std::size_t bytes() const noexcept { return bytes_; }

  void note_recent(const std::shared_ptr<Timeline>& timeline) noexcept {
    if (recent_address_ == timeline.get() && !recent.expired()) return;
    recent_address_ = timeline.get();
    recent = timeline;
  }

  Counts counts;
  std::weak_ptr<Timeline> recent;  ///< where the thread last left a block
  /// How many blocks have come back for good, cached or freed, while the heap was open.
  std::uint64_t returned = 0;
  std::uint64_t settled = 0;  ///< what of its share of bytes in use and in flight HeapCore::held_ has

  Quota* quota = nullptr;       ///< of its heap, if that has one: blocks come in and go out through it
  HeapCore* const heap;         ///< whose cache it is, in all lives of that object
  ThreadCache* next = nullptr;  ///< in the heap's list of caches with an owner, or of those without; under its mutex
  ThreadCache* previous = nullptr;  ///< in the first of these
  bool is_keeper = false;           ///< in the list of its arena's keepers, or on its way there (arena_core.hpp)
  ThreadCache* next_keeper = nullptr;
  ThreadCache* previous_keeper = nullptr;

 private:
  struct Class {
    BlockRun used;
    BlockRun full;                  // the other one
    std::uint32_t full_length = 0;  // how many blocks make a full list; 0: the class is not kept
  };
  static bool fits(const Block& block, std::size_t bytes, std::size_t alignment) noexcept {
    return size_class::fits(block.capacity, bytes) && is_aligned(block.data, alignment);
  }
  Block* take_out(BlockRun& list, Block** link) noexcept {
    Block* const block = *link;
    *link = block->next;
    --list.length;
    bytes_ -= block->capacity;
    return block;
  }
  Block* take_slowly(std::size_t index, std::size_t bytes, std::size_t alignment) noexcept;
  BlockRun take_list(std::size_t index) noexcept;
  void give_list(std::size_t index, Depot& depot, MovingBlocks& surplus) noexcept;
  void count_gone(std::size_t bytes) const noexcept {
    if (quota != nullptr) [[unlikely]]
      quota->give(bytes);
  }

  Count bytes_;
  std::size_t limit_ = 0;
  std::size_t capacity_ = 0, arena_ = 0;      // of the heap and the arena, when limit_ was set
  std::size_t hand_ = 0;                      // the class that makes room next
  const Timeline* recent_address_ = nullptr;  // of `recent`, to compare
  std::array<Class, size_class::count> classes_{};
};

}  // namespace thole::inline v0_1::detail
