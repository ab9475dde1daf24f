#pragma once

// What streams still use of a heap's blocks, for PinnedHeap::report().

#include <chrono>
#include <vector>

#include <thole/report.hpp>

namespace thole::inline v0_1::detail {

struct Block;
struct HeapCore;

/// The open uses of one heap's blocks as they are now; other threads go on meanwhile. Throws std::bad_alloc.
Report make_report(HeapCore& heap);

/// Adds the open uses of one block. `now` is the steady clock's. Throws std::bad_alloc.
void add_in_flight(const Block& block, std::chrono::nanoseconds now, std::vector<InFlightBlock>& found);

}  // namespace thole::inline v0_1::detail
