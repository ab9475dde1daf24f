#pragma once

// What an arena's threads hand to each other: full lists of free blocks of one size class. A thread that has too many
// puts a list here, one that has none takes a whole list, so that a block costs a fraction of a lock that it shares
// with blocks of its own class alone. What lies here stays everybody's: who finds no memory empties the depot into the
// store.

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "base/spin_lock.hpp"
#include "blocks/block.hpp"
#include "blocks/moving_blocks.hpp"
#include "heap/size_class.hpp"
#include "memory/store.hpp"

namespace thole::inline v0_1::detail {

/// Blocks of one class, linked by `next`.
struct BlockRun {
  Block* first = nullptr;
  std::uint32_t length = 0;

  bool empty() const noexcept { return first == nullptr; }
  void push(Block* block) noexcept {
    block->next = first;
    first = block;
    ++length;
  }
  /// The bytes of the blocks.
  std::size_t bytes(std::size_t index) const noexcept {
    if (index < size_class::first_mixed) return length * size_class::smallest(index);
    std::size_t sum = 0;
    for (const Block* block = first; block != nullptr; block = block->next) sum += block->capacity;
    return sum;
  }
};

/// Thread safety: any thread, at any time. A lock is held for some nanoseconds, and may be taken under a cache's.
class Depot {
 public:
  explicit Depot(Store& store) noexcept : store_(store) {}
  Depot(const Depot&) = delete;
  Depot& operator=(const Depot&) = delete;

  /// Keeps the list. For what is too much another list is moved to `surplus`, or this one.
  void give(BlockRun list, std::size_t index, MovingBlocks& surplus) noexcept;
  /// A list of at most `most` blocks whose first one serves the request, or none. The caller holds the lock of the
  /// cache that it goes to.
  BlockRun take(std::size_t index, std::size_t bytes, std::size_t alignment, std::uint32_t most) noexcept;
  /// Gives everything to the store.
  void flush() noexcept;

  /// Bytes of the blocks that are here.
  std::size_t bytes() const noexcept { return bytes_.load(std::memory_order_relaxed); }
  /// How many lists came and went, ever. Written under the lock of the class, inside that of a cache: who looked at
  /// both places, and sees no change, has not missed a list that went from the one to the other, since each class's
  /// part of the sum only grows. Acquire: pairs with the count, so that where a list went before the look began it is
  /// there.
  std::uint64_t moves() const noexcept {
    std::uint64_t sum = 0;
    for (const Class& at : classes_) sum += at.moves.load(std::memory_order_acquire);
    return sum;
  }

 private:
  struct alignas(64) Class {
    SpinLock lock;
    std::uint32_t lists = 0;
    std::atomic<std::uint64_t> moves{0};  // written under the lock: no thread of another class waits for its line
    void count_move() noexcept { moves.store(moves.load(std::memory_order_relaxed) + 1, std::memory_order_release); }
    std::atomic<Block*> first{
        nullptr};  // of the first list; written under the lock; a look without it is a hint, but for flush()
  };
  BlockRun pop(Class& at) noexcept;
  void count_gone(const BlockRun& list, std::size_t index) noexcept;

  Store& store_;
  std::array<Class, size_class::count> classes_{};
  alignas(64) std::atomic<std::size_t> bytes_{0};
  std::atomic<std::size_t> hand_{0};  // where to look next for a list to give up
};

/// Gives lists, linked by `next_list`, to the store, some blocks at a time.
void free_lists(Store& store, Block* lists) noexcept;
/// Gives blocks to the store, some at a time.
void free_blocks(Store& store, MovingBlocks& blocks) noexcept;

}  // namespace thole::inline v0_1::detail
