#pragma once

// How a graph's nodes come into streams. The function wants the machine's mutex locked.

#include "backend/simulated/machine.hpp"

namespace thole::inline v0_1::detail::simulated {

/// Enqueues the executable's operations.
Status launch_executable(GraphExec& exec, const StreamPtr& stream);

}  // namespace thole::inline v0_1::detail::simulated
