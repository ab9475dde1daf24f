#include "heap/thread_cache.hpp"

namespace thole::detail {

Block* ThreadCache::take_slowly(std::size_t index, std::size_t bytes, std::size_t alignment) noexcept {
  // Blocks of whole pages may be too small in their class; the next class has only larger ones. A few are looked at, no
  // more.
  constexpr std::size_t tried = 8;
  const std::size_t last = bytes > size_class::largest_exact && index + 1 < size_class::count ? index + 1 : index;
  for (; index <= last; ++index) {
    Block** link = &lists_[index].first;
    for (std::size_t i = 0; i != tried && *link != nullptr; ++i, link = &(*link)->next) {
      Block* const block = *link;
      if (!fits(*block, bytes, alignment)) continue;
      return take_out(lists_[index], link);
    }
  }
  return nullptr;
}

void ThreadCache::make_room(const Block& block, MovingBlocks& out) noexcept {
  const std::size_t own = size_class::index(block.capacity);
  const std::size_t last_exact = size_class::index(size_class::largest_exact);
  if (block.capacity > size_class::largest_exact)
    for (std::size_t index = last_exact + 1; index != size_class::count; ++index)
      while (lists_[index].first != nullptr) out.push(take_out(lists_[index], &lists_[index].first));
  if (own > last_exact) return;
  List& list = lists_[own];
  for (std::size_t count = (list.count + 1) / 2; count != 0; --count) out.push(take_out(list, &list.first));
}

void ThreadCache::flush(MovingBlocks& out) noexcept {
  for (List& list : lists_)
    while (list.first != nullptr) out.push(take_out(list, &list.first));
}

std::size_t ThreadCache::bytes() const noexcept {
  std::size_t sum = 0;
  for (std::size_t index = 0; index != size_class::count; ++index)
    sum += lists_[index].count * size_class::smallest(index);
  return sum;
}

}  // namespace thole::detail
