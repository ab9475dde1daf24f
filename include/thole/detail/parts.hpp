#pragma once

// The untyped half of splitting buffers into parts and joining them.

#include <cstddef>

#include <thole/detail/block_head.hpp>
#include <thole/error.hpp>
#include <thole/export.hpp>

namespace thole::inline v0_1::detail {

/// Makes parts of `sizes[i]` elements each, one behind the other, which are all of the block; nullptr where it is 0. On
/// success the block's handle is gone; on failure nothing has changed.
THOLE_EXPORT Result<void> split_block(BlockHead* block, const std::size_t* sizes, std::size_t count,
                                      std::size_t element_bytes, BlockHead** parts, const char* call) noexcept;
/// One part of neighbours, in their order: some blocks may be nullptr, nothing. On success their handles are gone; on
/// failure nothing has changed.
THOLE_EXPORT Result<BlockHead*> join_blocks(BlockHead* const* blocks, std::size_t count, const char* call) noexcept;
/// Room for so many; nullptr where there is no memory for that.
struct THOLE_EXPORT BlocksToJoin {
  explicit BlocksToJoin(std::size_t count) noexcept;
  ~BlocksToJoin();
  BlocksToJoin(const BlocksToJoin&) = delete;
  BlocksToJoin& operator=(const BlocksToJoin&) = delete;
  BlockHead** const list;
};
/// The Error then.
THOLE_EXPORT Error no_memory_to_join() noexcept;
/// Its memory; nullptr for none.
THOLE_EXPORT void* block_data(const BlockHead* block) noexcept;

}  // namespace thole::inline v0_1::detail
