#include <thole/detail/parts.hpp>

#include <algorithm>
#include <cstdlib>
#include <string>

#include <thole/borrow.hpp>
#include <thole/detail/kept.hpp>

#include "api/block_rules.hpp"
#include "heap/heap_core.hpp"
#include "streams/part_blocks.hpp"

namespace thole::inline v0_1::detail {
namespace {

/// Whoever else holds the block looks at its own record: borrows and graphs would not see the parts' uses.
Result<void> check_alone(const Block& block, const char* call) noexcept {
  if (!block.of_this_process()) return tl::unexpected(of_another_process_error(call));
  if (block.holders.only_handle()) return {};
  if (block.holders.borrows() != 0) return tl::unexpected(borrowed_error(block, call, true));
  return tl::unexpected(Error::make(Errc::borrowed, [&] {
    return std::string(call) + ": a graph or a UseList holds the buffer of " + bytes_of(block) + " that was made at " +
           place_of(block);
  }));
}

void end(Block* block) noexcept {
  if (Block* const whole = end_split(block); whole != nullptr) release(whole);
}

}  // namespace

Result<void> split_block(BlockHead* head, const std::size_t* sizes, std::size_t count, std::size_t element_bytes,
                         BlockHead** parts, const char* call) noexcept {
  Block& block = of(head);
  if (auto alone = check_alone(block, call); !alone) return alone;
  std::byte* data = block.data;
  for (std::size_t i = 0; i != count; data += sizes[i] * element_bytes, ++i) {
    Block* const part = sizes[i] != 0 ? make_part(block, data, sizes[i] * element_bytes) : nullptr;
    parts[i] = part;
    if (part != nullptr || sizes[i] == 0) continue;
    while (i-- != 0)
      if (parts[i] != nullptr) end(&of(parts[i]));
    return tl::unexpected(no_system_memory(call));
  }
  end(&block);
  return {};
}

Result<BlockHead*> join_blocks(BlockHead* const* blocks, std::size_t count, const char* call) noexcept {
  Block* first = nullptr;
  std::size_t bytes = 0;
  for (std::size_t i = 0; i != count; ++i) {
    if (blocks[i] == nullptr) continue;
    Block& block = of(blocks[i]);
    if (auto alone = check_alone(block, call); !alone) return tl::unexpected(std::move(alone.error()));
    const bool fits = first == nullptr || (block.is_part && first->is_part && block.whole == first->whole &&
                                           block.data == first->data + bytes);
    if (!fits)
      return tl::unexpected(Error::make(Errc::invalid_argument, [&] {
        return std::string(call) + ": the buffer of " + bytes_of(block) +
               " is not the neighbour, in one allocation, of the " + std::to_string(bytes) + " bytes before it";
      }));
    if (first == nullptr) first = &block;
    bytes += block.asked_bytes;
  }
  if (first == nullptr || bytes == first->asked_bytes) return first;
  Block* const joined = make_part(*first, first->data, bytes);
  bool copied = joined != nullptr;
  for (std::size_t i = 0; i != count && copied; ++i)
    if (blocks[i] != nullptr && blocks[i] != first) copied = copy_uses(of(blocks[i]).uses, *joined);
  if (!copied) {
    if (joined != nullptr) end(joined);
    return tl::unexpected(no_system_memory(call));
  }
  for (std::size_t i = 0; i != count; ++i)
    if (blocks[i] != nullptr) end(&of(blocks[i]));
  return joined;
}

Error outside_error(const char* call, std::size_t offset, std::size_t count, std::size_t size) {
  return Error::make(Errc::invalid_argument, [&] {
    return std::string(call) + ": " + std::to_string(count) + " elements from element " + std::to_string(offset) +
           " on, of a buffer of " + std::to_string(size);
  });
}

void* allocate_pointers(std::size_t count) noexcept {
  return std::calloc(std::max<std::size_t>(count, 1), sizeof(void*));
}
void free_pointers(void* pointers) noexcept { std::free(pointers); }

void* block_data(const BlockHead* block) noexcept {
  return block != nullptr ? static_cast<const Block*>(block)->data : nullptr;
}

}  // namespace thole::inline v0_1::detail
