#pragma once

// What the system lets this process have: asked before memory is touched, so that the OOM killer is not met.

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/bytes.hpp"

namespace thole::detail {

/// The tightest of the limits on memory.
struct MemoryRoom {
  std::size_t bytes = SIZE_MAX;  ///< that may still be taken
  std::string limit;             ///< which limit that is, with its numbers
};

/// Reads MemAvailable of /proc/meminfo and memory.max of the process's cgroup and those above it (version 2 or 1).
MemoryRoom memory_room();

/// RLIMIT_MEMLOCK in words, such as "RLIMIT_MEMLOCK is 8388608 bytes".
std::string memlock_limit();

/// Whether the system has the NUMA node.
bool numa_node_exists(int node);

}  // namespace thole::detail
