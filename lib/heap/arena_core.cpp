#include "heap/arena_core.hpp"

#include "heap/heap_core.hpp"

namespace thole::detail {

void ArenaCore::add(HeapCore* heap) {
  const std::scoped_lock lock(mutex_);
  heaps_.push_back(heap);
}

void ArenaCore::remove(HeapCore* heap) noexcept {
  const std::scoped_lock lock(mutex_);
  std::erase(heaps_, heap);
  made_by_ended_heaps_ += heap->figures(false).made;
}

void ArenaCore::flush() noexcept {
  const std::scoped_lock lock(mutex_);
  for (HeapCore* const heap : heaps_) heap->flush();
}

ArenaCore::Sum ArenaCore::sum() const {
  const std::scoped_lock lock(mutex_);
  Sum sum;
  sum.made = made_by_ended_heaps_;
  for (const HeapCore* const heap : heaps_) {
    const auto figures = heap->figures();
    sum.made += figures.made;
    sum.in_use += figures.in_use;
    sum.in_flight += figures.in_flight;
    sum.cached += figures.cached;
    sum.waste += figures.waste;
  }
  return sum;
}

}  // namespace thole::detail
