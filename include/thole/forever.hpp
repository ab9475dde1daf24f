#pragma once

#include <thole/detail/std_parts.hpp>

namespace thole::inline v0_1 {

/// A timeout that is never over, for the calls whose names end in `_for`: `heap.make_buffer_for<float>(n, forever)`.
/// A timeout of 0 or less is over at once: what is there already is had all the same.
/// A wait with a timeout looks every 5 us at first and every millisecond after a while, and so may end a millisecond
/// late; one of `forever` for the device is as the wait without a timeout.
inline constexpr std::chrono::nanoseconds forever = std::chrono::nanoseconds::max();

}  // namespace thole::inline v0_1
