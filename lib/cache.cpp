#include "cache.hpp"

#include <algorithm>

namespace thole::detail {

void Counts::reset() noexcept {
  for (Count* count : {&made, &made_bytes, &made_waste, &let_go, &let_go_bytes, &let_go_waste, &at_once,
                       &deferred_bytes, &recycled, &recycled_bytes, &waited})
    count->reset();
}

Block* Cache::take_class(std::size_t index, std::size_t bytes, std::size_t alignment) noexcept {
  Slot* const slots = &slots_[first_slot[index]];
  for (std::size_t top = used_[index]; top != 0;) {
    // Acquire: what the block's last holder did to it. Nobody else fills a slot, so that putting back is a store.
    Block* const block = slots[--top].exchange(nullptr, std::memory_order_acquire);
    if (block == nullptr || (size_class::fits(block->capacity, bytes) &&
                             reinterpret_cast<std::uintptr_t>(block->data) % alignment == 0)) {
      if (top + 1 == used_[index]) used_[index] = static_cast<std::uint8_t>(top);
      if (block != nullptr) return block;
    } else {
      slots[top].store(block, std::memory_order_release);
    }
  }
  return nullptr;
}

Block* Cache::take(std::size_t bytes, std::size_t alignment) noexcept {
  const std::size_t index = size_class::index(bytes);
  Block* const block = take_class(index, bytes, alignment);
  if (block != nullptr || bytes <= size_class::largest_exact || index + 1 == size_class::count) return block;
  return take_class(index + 1, bytes, alignment);
}

bool Cache::put(Block* block) noexcept {
  const std::size_t index = size_class::index(block->capacity);
  Slot* const slots = &slots_[first_slot[index]];
  const std::size_t kept = size_class::kept(index);
  std::size_t at = used_[index];
  if (at == kept) {
    // Others may have emptied some.
    at = 0;
    while (at != kept && slots[at].load(std::memory_order_relaxed) != nullptr) ++at;
    if (at == kept) return false;
  } else {
    used_[index] = static_cast<std::uint8_t>(at + 1);
  }
  slots[at].store(block, std::memory_order_release);  // pairs with the exchanges
  return true;
}

void Cache::empty_class(std::size_t index, bool all, BlockList& out) noexcept {
  Slot* const slots = &slots_[first_slot[index]];
  const std::size_t kept = size_class::kept(index);
  for (std::size_t i = all ? 0 : kept / 2; i != kept; ++i) {
    if (slots[i].load(std::memory_order_relaxed) == nullptr) continue;
    if (Block* const block = slots[i].exchange(nullptr, std::memory_order_acquire); block != nullptr) out.push(block);
  }
}

void Cache::empty(BlockList& out) noexcept {
  for (std::size_t index = 0; index != size_class::count; ++index) empty_class(index, true, out);
}

std::size_t Cache::bytes() const noexcept {
  // Without a look at the blocks, which may be another thread's by now: the least that a block of the class has.
  std::size_t sum = 0;
  for (std::size_t index = 0; index != size_class::count; ++index) {
    const Slot* const slots = &slots_[first_slot[index]];
    const auto full = std::count_if(slots, slots + size_class::kept(index), [](const Slot& slot) {
      return slot.load(std::memory_order_relaxed) != nullptr;
    });
    sum += static_cast<std::size_t>(full) * size_class::smallest(index);
  }
  return sum;
}

}  // namespace thole::detail
