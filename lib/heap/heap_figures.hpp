#pragma once

// The figures of heaps: the counts of all their threads, summed.

#include <cstddef>

#include "heap/counters.hpp"

namespace thole::inline v0_1::detail {

class ArenaCore;
struct HeapCore;

/// One heap's, or all heaps' of an arena. Threads go on while the counts are summed, so that what is held now may be
/// off by what they did meanwhile.
struct HeapFigures : Counters<std::size_t> {
  std::size_t cached = 0;  ///< bytes of free blocks that are kept; only in the figures of an arena's heaps
};

/// Notes the peak, too.
HeapFigures figures_of(HeapCore& heap) noexcept;
/// Also counts the blocks made by heaps that have ended.
HeapFigures figures_of_heaps(const ArenaCore& arena) noexcept;

}  // namespace thole::inline v0_1::detail
