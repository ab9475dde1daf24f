#include "heap/heap_figures.hpp"

#include <limits>

#include "heap/heap_core.hpp"

namespace thole::inline v0_1::detail {
namespace {

/// A sum taken while threads go on may have wrapped below 0.
void at_least_0(std::size_t& sum) noexcept {
  if (sum > std::numeric_limits<std::size_t>::max() / 2) sum = 0;
}

}  // namespace

HeapFigures figures_of(HeapCore& heap) noexcept {
  HeapFigures figures{heap.sum_counts()};
  at_least_0(figures.in_use);
  at_least_0(figures.in_flight);
  at_least_0(figures.waste);
  return figures;
}

HeapFigures figures_of_heaps(const ArenaCore& arena) noexcept {
  HeapFigures sum;
  sum.made += arena.for_each_heap([&](HeapCore& heap) { sum.add(figures_of(heap)); });
  sum.cached = arena.kept_bytes();
  return sum;
}

}  // namespace thole::inline v0_1::detail
