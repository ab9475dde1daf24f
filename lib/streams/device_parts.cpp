#include "streams/device_parts.hpp"

#include <cstdint>
#include <utility>

#include "streams/uses.hpp"

namespace thole::inline v0_1::detail {
namespace {

DeviceBlock& whole_of(DeviceBlock& block) noexcept { return block.whole != nullptr ? *block.whole : block; }

}  // namespace

DeviceBlock* make_device_part(DeviceBlock& of, void* data, std::size_t bytes) noexcept {
  DeviceBlock* const part = new_device_block(of.core);
  if (part == nullptr) return nullptr;
  part->data = data;
  part->bytes = bytes;
  part->whole = &whole_of(of);
  part->whole->hold();
  if (copy_open(of.uses, part->uses)) return part;
  discard_device_part(part);
  return nullptr;
}

void discard_device_part(DeviceBlock* part) noexcept {
  DeviceBlock* const whole = std::exchange(part->whole, nullptr);
  (void)part->let_go();
  recycle(part);
  (void)whole->let_go();  // what it was made of holds it, too
}

void count_part_handles(DeviceBlock& of, std::size_t parts) noexcept {
  whole_of(of).part_handles.fetch_add(static_cast<std::uint32_t>(parts), std::memory_order_relaxed);
}

void end_as_parts(DeviceBlock* block) noexcept {
  if (block->whole == nullptr) return;  // the whole stays, as long as a part has a handle
  block->whole->part_handles.fetch_sub(1, std::memory_order_relaxed);
  discard_device_part(block);
}

}  // namespace thole::inline v0_1::detail
