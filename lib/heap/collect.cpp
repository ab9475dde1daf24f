#include "heap/collect.hpp"

#include <new>

#include "heap/heap_core.hpp"
#include "streams/cross_device.hpp"
#include "streams/graph_uses.hpp"
#include "streams/stream_registry.hpp"

namespace thole::inline v0_1::detail {
namespace {

HeapCore& heap_of(const Block& block) noexcept { return *block.heap.load(std::memory_order_relaxed); }

std::size_t hand_to_heaps(MovingBlocks& blocks) noexcept {
  std::size_t count = 0;
  for (; Block* const block = blocks.pop(); ++count) heap_of(*block).reclaim(block);
  return count;
}

}  // namespace

std::size_t collect_from_graphs() noexcept {
  MovingBlocks blocks;
  take_released_from_graphs(blocks);
  std::size_t count = 0;
  for (; Block* const block = blocks.pop(); ++count) heap_of(*block).release(block);
  return count;
}

std::size_t collect(DeviceCore& device, Wanted wanted) noexcept {
  std::size_t count = collect_from_graphs();
  device.streams->end_waiting();
  MovingBlocks blocks;
  device.streams->take_finished(blocks, wanted);
  try {
    for (const auto& other : devices_used_across(device)) {
      other->streams->take_finished(blocks, wanted);
      free_waiting_device_blocks(*other);
    }
  } catch (const std::bad_alloc&) {
    // What other devices have finished is found the next time.
  }
  count += hand_to_heaps(blocks);
  free_waiting_device_blocks(device);
  return count;
}

std::size_t collect_some(Timeline& timeline) noexcept {
  if (!timeline.has_work()) return 0;
  MovingBlocks blocks;
  timeline.take_finished(blocks, false);
  return hand_to_heaps(blocks);
}

std::size_t collect_any(DeviceCore& device) noexcept {
  const auto timeline = device.streams->next_with_work();
  return timeline != nullptr ? collect_some(*timeline) : 0;
}

std::size_t collect_stream(Timeline& timeline) noexcept {
  MovingBlocks blocks;
  timeline.take_finished(blocks, true);
  const std::size_t count = hand_to_heaps(blocks);
  free_waiting_device_blocks(*timeline.device());
  return count;
}

}  // namespace thole::inline v0_1::detail
