#pragma once

// Device memory of a DeviceBuffer: allocated in the order of one stream, freed in stream order after all its uses.

#include <atomic>
#include <cstddef>
#include <memory>

#include <thole/detail/use.hpp>
#include "streams/timeline.hpp"

namespace thole::detail {

struct DeviceBlock {
  std::shared_ptr<DeviceCore> core;
  void* data = nullptr;         // nullptr: 0 bytes
  Timeline* made_on = nullptr;  // nullptr: made while its stream captured, on a stream of the library's
  std::uint64_t made_on_id = 0;
  Uses uses;
  std::atomic<long> references{1};  // the handle, and one per graph node
  DeviceBlock* next = nullptr;      // DeviceCore::waiting_device_blocks
};

/// Frees the memory and the record once nothing uses it any more: now, in the order of its stream, or later.
void free_device_block(DeviceBlock* block) noexcept;
/// A record whose memory is gone, or was never there.
void destroy(DeviceBlock* block) noexcept;
/// Allocates for a graph that is being captured: the memory is there on return.
Status allocate_at_once(DeviceBlock& block, std::size_t bytes) noexcept;

/// For retain_in_graph: may not call the device, so that the memory is freed by the next reclaim.
void release_device_block_from_graph(void* block);
/// Frees the device's memory that had to wait and need not any more. Called wherever blocks are reclaimed.
void free_waiting_device_blocks(DeviceCore& device) noexcept;
/// Whether any has to wait.
bool device_blocks_wait(const DeviceCore& device) noexcept;

}  // namespace thole::detail
