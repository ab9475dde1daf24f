#pragma once

// What streams still use of a heap's blocks, for PinnedHeap::report().

#include <thole/report.hpp>

namespace thole::detail {

struct HeapCore;

/// The open uses of one heap's blocks as they are now; other threads go on meanwhile. Throws std::bad_alloc.
Report make_report(HeapCore& heap);

}  // namespace thole::detail
