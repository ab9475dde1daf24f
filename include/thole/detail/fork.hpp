#pragma once

// A forked child is another process: what its parent made is of no use in it but to be dropped.

#include <atomic>
#include <cstdint>

#include <thole/export.hpp>

namespace thole::inline v0_1::detail {

/// Counts forks on the way from the first process that loaded the library to this one. Constant within a process:
/// written by a child's only thread, before it returns from fork().
THOLE_EXPORT extern std::atomic<std::uint32_t> forks;

/// A number for this process among its ancestors.
inline std::uint32_t this_process() noexcept { return forks.load(std::memory_order_relaxed); }

}  // namespace thole::inline v0_1::detail
