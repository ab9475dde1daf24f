#pragma once

// Loops over thousands of records wait for memory at each, unless the next ones are on their way already.

#include <cstddef>

namespace thole::inline v0_1::detail {

/// So many records ahead of the one that a loop is at: far enough for memory, near enough to be still there.
constexpr std::size_t prefetched_ahead = 8;

/// Begins to bring the line at the address near, to be written. Any address will do.
inline void prefetch(const void* address) noexcept { __builtin_prefetch(address, 1); }

}  // namespace thole::inline v0_1::detail
