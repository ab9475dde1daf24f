#pragma once

// The record of one piece of pinned memory. Storage owns what is in flight: the uses of the memory, who still holds it,
// and the link of the queue in which it waits after a drop all live here, so that dropping allocates nothing.
//
// Records are type-stable (block_pool.hpp): a stale pointer to one always points to a Block, or to zeros. They lie
// outside the pinned memory, where no copy can overwrite them. A program may have millions, so what only some need is
// in the slots of their uses, and words that are needed one after the other share a place.

#include <atomic>
#include <cstddef>
#include <cstdint>

#include <thole/detail/block_head.hpp>
#include <thole/source_location.hpp>

#include "base/count.hpp"
#include "blocks/use.hpp"

namespace thole::inline v0_1::detail {

struct HeapCore;

struct Block : BlockHead {
  // Where the head ends. The first three are set by who makes the block, and is_free by the store, under its lock.
  bool is_free : 1 = false;
  bool from_mimalloc : 1 = false;
  bool is_part : 1 = false;
  bool has_parts = false;        ///< under the lock of its uses, as is the list of parts
  std::uint8_t list_length = 0;  ///< the first of a list in the depot (heap/depot.hpp): how many the list has

  Uses uses;
  std::byte* data = nullptr;
  Count capacity;                        ///< bytes that the memory can hold; at least what was asked for
  std::atomic<HeapCore*> heap{nullptr};  ///< atomic (relaxed) for reports, as is made_at
  std::atomic<SourceLocation> made_at{};

  union {
    Block* next = nullptr;  ///< link of the one list in which the block is
    Block* first_part;      ///< while it has parts, which hold it
    Block* free_before;     ///< while it is free: the list of free extents of one size class
  };
  union {
    std::size_t asked_bytes = 0;  ///< while somebody holds it: what the user asked for
    std::uint64_t wait_position;  ///< while it is retired: the position of the stream that it waits for
    Block* next_list;             ///< the first of a list in the depot: the first of the next one
    Block* free_after;            ///< as free_before
  };
  union {
    void* owner = nullptr;  ///< the region, or the mimalloc chunk, that the memory comes from
    Block* whole;           ///< of a part (streams/part_blocks.hpp): whose
  };
  Block* address_before = nullptr;  ///< the neighbours by address, free or not, in one region; a part's, in its list
  Block* address_after = nullptr;
};
static_assert(sizeof(Block) == 96);

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

}  // namespace thole::inline v0_1::detail
