#pragma once

#include <thole/report.hpp>

namespace thole::detail {

class Store;
struct HeapCore;

/// What streams still use of one heap's blocks, as it stands now; other threads go on meanwhile.
Report make_report(const Store& store, const HeapCore& heap);

}  // namespace thole::detail
