#pragma once

// One of the pieces of memory that a piece of work, or a graph, uses.

#include "blocks/block.hpp"
#include "streams/device_block.hpp"

namespace thole::inline v0_1::detail {

struct Used {
  Block* block = nullptr;               ///< pinned memory, or
  DeviceBlock* device_block = nullptr;  ///< the device's
  bool writes = false;
  bool stamp = false;       ///< of a Submission: this is the block's first open use
  bool submitting = false;  ///< of HeldUses: it counts in the device block's Submitting
  Uses& uses() const noexcept { return block != nullptr ? block->uses : device_block->uses; }
};

}  // namespace thole::inline v0_1::detail
