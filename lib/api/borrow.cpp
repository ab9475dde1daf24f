#include <thole/borrow.hpp>

#include "blocks/block.hpp"
#include "heap/heap_core.hpp"

namespace thole::inline v0_1::detail {

void release(BlockHead* head) noexcept {
  auto* const block = static_cast<Block*>(head);  // every head is that of a Block
  HeapCore& heap = *block->heap.load(std::memory_order_relaxed);
  if (heap.of_this_process()) [[likely]]
    heap.release(block);
}

}  // namespace thole::inline v0_1::detail
