#pragma once

// The thread that runs the host functions of all simulated devices.

#include "backend/simulated/machine.hpp"

namespace thole::detail::simulated {

/// Whether the calling thread is in a host function, where CUDA allows hardly a call.
bool in_host_function() noexcept;
/// While it lives the calling thread is in one.
class HostFunctionRuns {
 public:
  HostFunctionRuns() noexcept;
  ~HostFunctionRuns();
  HostFunctionRuns(const HostFunctionRuns&) = delete;
  HostFunctionRuns& operator=(const HostFunctionRuns&) = delete;
};
/// Runs the function as CUDA does: on one thread for all, so that two which wait for each other never end. On a stepped
/// device the thread that steps is that one.
void run_host_function(Lock& lock, const SimulatedDevice& device, const Operation& operation);

}  // namespace thole::detail::simulated
