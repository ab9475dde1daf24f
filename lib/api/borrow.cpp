#include <thole/borrow.hpp>

#include "blocks/block.hpp"
#include "heap/heap_core.hpp"

namespace thole::detail {

void release(BlockHead* block) noexcept {
  auto* const whole = static_cast<Block*>(block);  // every head is that of a Block
  whole->heap.load(std::memory_order_relaxed)->let_go(whole);
}

}  // namespace thole::detail
