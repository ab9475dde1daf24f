#pragma once

// The untyped half of splitting buffers into parts and joining them.

#include <cstddef>
#include <vector>

#include <thole/detail/block_head.hpp>
#include <thole/detail/kept.hpp>
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
/// Room for so many; nullptr where there is no memory for that, which no_system_memory() says.
struct THOLE_EXPORT PartBlocks {
  explicit PartBlocks(std::size_t count) noexcept;
  ~PartBlocks();
  PartBlocks(const PartBlocks&) = delete;
  PartBlocks& operator=(const PartBlocks&) = delete;
  BlockHead** const list;
};
/// `count` empty elements. False: there is no memory for that.
template <class T>
bool try_resize(std::vector<T>& elements, std::size_t count) noexcept {
#ifdef __cpp_exceptions
  try {
    elements.resize(count);
    return true;
  } catch (...) {
    return false;
  }
#else
  elements.resize(count);
  return true;
#endif
}
/// Its memory; nullptr for none.
THOLE_EXPORT void* block_data(const BlockHead* block) noexcept;

}  // namespace thole::inline v0_1::detail
