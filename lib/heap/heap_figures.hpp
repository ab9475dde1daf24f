#pragma once

// The figures of heaps: the counts of all their threads, summed.

#include <cstddef>

#include "heap/counters.hpp"

namespace thole::detail {

class ArenaCore;
struct HeapCore;

/// One heap's, or all heaps' of an arena. Threads go on while the counts are summed, so that what is held now may be
/// off by what they did meanwhile.
struct HeapFigures : Counters<std::size_t> {
  std::size_t cached = 0;  ///< bytes of free blocks in threads' caches; only in the figures of an arena's heaps
};

HeapFigures figures_of(const HeapCore& heap) noexcept;
/// Also counts the blocks made by heaps that have ended.
HeapFigures figures_of_heaps(const ArenaCore& arena) noexcept;
/// Notes in HeapCore::peak_bytes how much is in use and in flight now.
void note_peak(HeapCore& heap) noexcept;

}  // namespace thole::detail
