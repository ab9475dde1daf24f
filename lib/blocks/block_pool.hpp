#pragma once

// Where block records come from. Records are type-stable: a released one may become another block's, but never anything
// else, so a thread that is late may still look at it.

#include <array>

#include "blocks/block.hpp"

namespace thole::detail {

/// Records are made so many at a time.
struct BlockSlab {
  std::array<Block, 64> blocks;
  BlockSlab* next = nullptr;
};
/// The last one made; the others follow.
BlockSlab* first_slab() noexcept;

/// A record with empty uses; nullptr when the system has no memory.
Block* acquire_block() noexcept;
/// Nobody holds the block and no queue or cache knows it.
void release_block(Block* block) noexcept;

/// Calls `f(Block&)` with every record that there is in the process, whatever it is used for now, or not. Takes no
/// lock: what is read of a record must be atomic, or guarded by the record's own lock.
template <class F>
void for_each_record(F&& f) {
  for (BlockSlab* slab = first_slab(); slab != nullptr; slab = slab->next)
    for (Block& block : slab->blocks) f(block);
}

}  // namespace thole::detail
