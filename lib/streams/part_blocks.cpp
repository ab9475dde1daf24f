#include "streams/part_blocks.hpp"

#include "blocks/block_pool.hpp"
#include "streams/timeline.hpp"
#include "streams/uses.hpp"

namespace thole::inline v0_1::detail {
namespace {

void link(Block& whole, Block* part) noexcept {
  const SpinGuard guard(whole.uses.slots);
  Block* const first = whole.has_parts ? whole.first_part : nullptr;
  part->address_before = nullptr;
  part->address_after = first;
  if (first != nullptr) first->address_before = part;
  whole.first_part = part;
  whole.has_parts = true;
}

void unlink(Block& whole, const Block* part) noexcept {
  const SpinGuard guard(whole.uses.slots);
  (part->address_before != nullptr ? part->address_before->address_after : whole.first_part) = part->address_after;
  if (part->address_after != nullptr) part->address_after->address_before = part->address_before;
  whole.has_parts = whole.first_part != nullptr;
}

/// The part's record is nobody's any more. Returns the whole where nobody holds that.
Block* give_back(Block* part) noexcept {
  Block& whole = *part->whole;
  unlink(whole, part);
  forget_all(part->uses);
  part->used.store(false, std::memory_order_relaxed);
  part->address_before = part->address_after = nullptr;
  part->is_part = false;
  release_block(part);
  return whole.holders.drop_graph() ? &whole : nullptr;
}

}  // namespace

bool copy_uses(const Uses& from, Block& to) noexcept {
  const bool any = any_open(from, Against::everything);
  const bool copied = copy_open(from, to.uses);
  if (any) to.used.store(true, std::memory_order_release);
  return copied;
}

Block* make_part(Block& of, std::byte* data, std::size_t bytes) noexcept {
  Block& whole = of.is_part ? *of.whole : of;
  Block* const part = acquire_block();
  if (part == nullptr) return nullptr;
  part->is_part = true;
  part->whole = &whole;
  part->data = data;
  part->capacity = bytes;
  part->heap.store(of.heap.load(std::memory_order_relaxed), std::memory_order_relaxed);
  part->asked_bytes = bytes;
  part->made_at.store(of.made_at.load(std::memory_order_relaxed), std::memory_order_relaxed);
  whole.holders.add_graph();
  const bool copied = copy_uses(of.uses, *part);
  link(whole, part);
  if (copied) {
    part->holders.open();
    return part;
  }
  (void)give_back(part);  // the caller holds `of`, and so the whole
  return nullptr;
}

Block* end_split(Block* block) noexcept {
  if (!block->is_part) {
    forget_all(block->uses);
    block->used.store(false, std::memory_order_relaxed);
    return block->holders.drop_handle() ? block : nullptr;
  }
  (void)block->holders.drop_handle();
  return give_back(block);
}

Block* end_part(Block* part) noexcept {
  Block& whole = *part->whole;
  // Where there is no memory to note that the whole is in use, it is lost, rather than used twice.
  if (any_open(part->uses, Against::everything) && !copy_uses(part->uses, whole)) whole.holders.add_graph();
  return give_back(part);
}

bool has_parts(const Block& block) noexcept {
  const SpinGuard guard(block.uses.slots);
  return block.has_parts;
}

}  // namespace thole::inline v0_1::detail
