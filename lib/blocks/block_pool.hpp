#pragma once

// Where block records come from. Records are type-stable: a released one may become another block's, but never anything
// else, so a thread that is late may still look at it.

#include "blocks/block.hpp"

namespace thole::detail {

/// A record with empty uses; nullptr when the system has no memory.
Block* acquire_block() noexcept;
/// Nobody holds the block and no queue or cache knows it.
void release_block(Block* block) noexcept;

}  // namespace thole::detail
