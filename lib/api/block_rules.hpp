#pragma once

// Defined in: block_rules.cpp, buffer.cpp

// The rules of PinnedBuffer about one block, as the calls that use one or many ask for them.

#include <memory>
#include <string>

#include <thole/error.hpp>

#include "backend/device_core.hpp"
#include "blocks/block.hpp"
#include "heap/heap_core.hpp"

namespace thole::inline v0_1::detail {

/// Every head is that of a Block.
inline Block& of(BlockHead* head) noexcept { return *static_cast<Block*>(head); }
inline DeviceCore& device_of(const Block& block) noexcept {
  return *block.heap.load(std::memory_order_relaxed)->arena().device();
}
/// Its size, for an error's text.
std::string bytes_of(const Block& block);
/// Where the program made it.
std::string place_of(const Block& block);

/// The Error of a call that the CPU's borrows forbid. `writes`: the call does.
Error borrowed_error(const Block& block, const char* call, bool writes);
/// RefCell's rule, asked: whether the CPU's borrows allow a use of the block now. Of a block that another process made
/// nothing else is said.
Result<void> check_borrows(const Block& block, bool writes, const char* call) noexcept;
/// The same, taken: false where it forbids the borrow. Who calls may have no handle, but a list or an address.
inline bool begin(Block& block, bool writes) noexcept {
  return writes ? block.holders.begin_write_shared() : block.holders.begin_read();
}
/// Waits until the block could be borrowed, as PinnedBuffer::try_borrow_for and try_borrow_mut_for do, and does not
/// borrow it. Any number of threads may wait so for one block.
Result<void> wait_to_borrow(Block& block, bool writes, std::chrono::nanoseconds timeout, const char* call) noexcept;
/// Whether a stream of that device may use the block; notes it where the block is of another device's arena.
Result<void> check_device(const Block& block, const std::shared_ptr<DeviceCore>& device, const char* call) noexcept;

}  // namespace thole::inline v0_1::detail
