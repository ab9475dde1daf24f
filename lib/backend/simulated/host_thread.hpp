#pragma once

// The thread that runs the host functions of all simulated devices.

#include "backend/simulated/machine.hpp"

namespace thole::inline v0_1::detail::simulated {

/// Runs the function as CUDA does: on one thread for all, so that two which wait for each other never end. On a stepped
/// device the thread that steps is that one.
void run_host_function(Lock& lock, const SimulatedDevice& device, const Operation& operation);

}  // namespace thole::inline v0_1::detail::simulated
