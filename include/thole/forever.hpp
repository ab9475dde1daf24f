#pragma once

#include <thole/detail/std_parts.hpp>

namespace thole {

/// A timeout that is never over, for the calls whose names end in `_for`: `heap.make_buffer_for<float>(n, forever)`.
inline constexpr std::chrono::nanoseconds forever = std::chrono::nanoseconds::max();

}  // namespace thole
