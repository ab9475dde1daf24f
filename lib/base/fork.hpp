#pragma once

// A forked child is another process: none of the library's threads run in it, and a lock that another thread held at
// the fork is held for ever. So it starts anew: what lives once in a process (immortal.hpp) is made again, and objects
// of the parent's are known by the number of the process that made them.

#include <atomic>
#include <cstdint>

namespace thole::detail {

/// Counts forks on the way from the first process that loaded the library to this one. Constant within a process.
inline constinit std::atomic<std::uint32_t> forks{
    0};  // written by a child's only thread, before it returns from fork()

/// A number for this process among its ancestors.
inline std::uint32_t this_process() noexcept { return forks.load(std::memory_order_relaxed); }

}  // namespace thole::detail
