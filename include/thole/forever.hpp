#pragma once

#include <thole/detail/std_parts.hpp>

namespace thole::inline v0_1 {

/// A timeout that is never over, for the calls whose names end in `_for`: `heap.make_buffer_for<float>(n, forever)`.
/// A timeout of 0 or less is over at once: what is there already is had all the same.
inline constexpr std::chrono::nanoseconds forever = std::chrono::nanoseconds::max();

}  // namespace thole::inline v0_1
