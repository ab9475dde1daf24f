// Splitting device memory: <thole/detail/parts.hpp>.

#include <cstddef>
#include <string>
#include <utility>

#include <thole/detail/parts.hpp>

#include "heap/heap_core.hpp"
#include "streams/device_parts.hpp"
#include "streams/uses.hpp"

namespace thole::inline v0_1::detail {
namespace {

/// Whoever else holds the block looks at its own record, and would not see the parts' uses. From now on nobody can hold
/// it by a span.
Result<void> take_alone(DeviceBlock& block, const char* call) noexcept {
  if (block.core->of_another_process()) return tl::unexpected(of_another_process_error(call));
  if (block.begin_next_life()) return {};
  return tl::unexpected(Error::make(Errc::borrowed, [&] {
    return std::string(call) + ": a graph, a UseList or a call that goes on has the DeviceBuffer of " +
           std::to_string(block.bytes) + " bytes";
  }));
}

Error no_neighbour(const DeviceBlock& block, std::size_t before, const char* call) {
  return Error::make(Errc::invalid_argument, [&] {
    return std::string(call) + ": the DeviceBuffer of " + std::to_string(block.bytes) +
           " bytes is not the neighbour, in one allocation, of the " + std::to_string(before) + " bytes before it";
  });
}

}  // namespace

Result<void> split_block(DeviceBlock* block, const std::size_t* sizes, std::size_t count, std::size_t element_bytes,
                         DeviceBlock** parts, const char* call) noexcept {
  if (auto alone = take_alone(*block, call); !alone) return alone;
  auto* data = static_cast<std::byte*>(block->data);
  std::size_t made = 0;
  for (std::size_t i = 0; i != count; data += sizes[i] * element_bytes, ++i) {
    parts[i] = sizes[i] != 0 ? make_device_part(*block, data, sizes[i] * element_bytes) : nullptr;
    if (parts[i] != nullptr) ++made;
    if (parts[i] != nullptr || sizes[i] == 0) continue;
    while (i-- != 0)
      if (parts[i] != nullptr) discard_device_part(parts[i]);
    block->go_back_a_life();
    return tl::unexpected(no_system_memory(call));
  }
  if (made == 0) {
    drop_device_block_handle(block);  // of 0 bytes
    return {};
  }
  count_part_handles(*block, made);
  end_as_parts(block);
  return {};
}

Result<DeviceBlock*> join_blocks(DeviceBlock* const* blocks, std::size_t count, const char* call) noexcept {
  const auto for_each = [&](std::size_t end, auto&& f) {
    for (std::size_t i = 0; i != end; ++i)
      if (blocks[i] != nullptr) f(*blocks[i]);
  };
  DeviceBlock* first = nullptr;
  const DeviceBlock* foreign = nullptr;
  std::size_t bytes = 0, pieces = 0;
  for_each(count, [&](DeviceBlock& block) {
    if (block.bytes == 0 || foreign != nullptr) return;
    const bool fits = first == nullptr || (block.whole != nullptr && block.whole == first->whole &&
                                           block.data == static_cast<std::byte*>(first->data) + bytes);
    if (!fits) return void(foreign = &block);
    if (first == nullptr) first = &block;
    bytes += block.bytes;
    ++pieces;
  });
  if (foreign != nullptr) return tl::unexpected(no_neighbour(*foreign, bytes, call));

  const auto go_back = [](DeviceBlock& block) {
    if (block.bytes != 0) block.go_back_a_life();
  };
  for (std::size_t i = 0; i != count; ++i) {
    if (blocks[i] == nullptr || blocks[i]->bytes == 0) continue;
    auto alone = take_alone(*blocks[i], call);
    if (alone) continue;
    for_each(i, go_back);
    return tl::unexpected(std::move(alone.error()));
  }
  DeviceBlock* joined = first;
  if (pieces == 1) {
    first->go_back_a_life();  // it stays what it is, and its spans are good
  } else if (pieces != 0) {
    joined = make_device_part(*first, first->data, bytes);
    bool copied = joined != nullptr;
    for_each(count, [&](const DeviceBlock& block) { copied = copied && copy_open(block.uses, joined->uses); });
    if (!copied) {
      if (joined != nullptr) discard_device_part(joined);
      for_each(count, go_back);
      return tl::unexpected(no_system_memory(call));
    }
    count_part_handles(*first, 1);
  }
  for_each(count, [&](DeviceBlock& block) {
    if (block.bytes == 0)
      drop_device_block_handle(&block);
    else if (&block != joined)
      end_as_parts(&block);
  });
  return joined;
}

}  // namespace thole::inline v0_1::detail
