#pragma once

// The record of one piece of pinned memory. Storage owns what is in flight: the uses of the memory, who still holds it,
// and the link of the queue in which it waits after a drop all live here, so that dropping allocates nothing.
//
// Records are never given back to the system (block_pool.hpp): a stale pointer to one always points to a Block. They
// lie outside the pinned memory, where no copy can overwrite them.

#include <atomic>
#include <cstddef>
#include <cstdint>

#include <thole/detail/block_head.hpp>
#include <thole/source_location.hpp>

#include "base/count.hpp"
#include "blocks/use.hpp"

namespace thole::detail {

class Store;
struct HeapCore;

struct alignas(64) Block : BlockHead {
  // What every call touches.
  Uses uses;
  std::byte* data = nullptr;
  Count capacity;                        ///< bytes that the memory can hold; at least what was asked for
  std::atomic<HeapCore*> heap{nullptr};  ///< atomic (relaxed) for report(), as are the fields below that say so
  Block* next = nullptr;                 ///< link of the one list in which the block is

  union {
    std::uint64_t wait_position = 0;  ///< while it is retired: the position of the stream that it waits for
    std::uint64_t list_length;        ///< the first of a list in the depot (heap/depot.hpp): how many the list has
  };

  // Where and when, for heap.report(). Atomic, relaxed.
  std::atomic<SourceLocation> made_at{};
  std::atomic<std::int64_t> used_since_ns{0};  ///< steady clock; the first use that was open when it was made
  std::atomic<std::size_t> asked_bytes{0};     ///< what the user asked for

  // The store's own: set by it alone, under its lock.
  Store* store = nullptr;  ///< nullptr: it is a part
  union {
    void* owner = nullptr;  ///< the region, or the mimalloc chunk, that the memory comes from
    Block* whole;           ///< of a part (streams/part_blocks.hpp): whose
  };
  bool from_mimalloc = false;
  bool is_free = false;
  bool has_parts = false;           ///< under the lock of its uses, as is the list of parts
  Block* address_before = nullptr;  ///< the neighbours by address, free or not, in one region; a part's, in its list
  Block* address_after = nullptr;
  union {
    Block* free_before = nullptr;  ///< while it is free: the list of free extents of one size class
    Block* first_child;            ///< while it is retired: the heap of blocks that wait (streams/waiting_blocks.hpp)
  };
  union {
    Block* free_after = nullptr;
    Block* first_part;  ///< while it has parts
    Block* next_list;   ///< the first of a list in the depot: the first of the next one
  };

  bool is_part() const noexcept { return store == nullptr; }
};

/// A list of blocks linked by `next`, with the last one known so that whole lists join at once.
class BlockList {
 public:
  bool empty() const noexcept { return first_ == nullptr; }
  void push(Block* block) noexcept {
    block->next = first_;
    first_ = block;
    if (last_ == nullptr) last_ = block;
  }
  Block* pop() noexcept {
    Block* const block = first_;
    if (block != nullptr) {
      first_ = block->next;
      if (first_ == nullptr) last_ = nullptr;
    }
    return block;
  }
  /// Takes all of `other`.
  void splice(BlockList& other) noexcept {
    if (other.empty()) return;
    other.last_->next = first_;
    if (last_ == nullptr) last_ = other.last_;
    first_ = other.first_;
    other.first_ = other.last_ = nullptr;
  }

 private:
  Block* first_ = nullptr;
  Block* last_ = nullptr;
};

}  // namespace thole::detail
