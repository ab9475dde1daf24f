#pragma once

// What a kernel is to the simulated device: a function of the program's that runs when the stream gets there, on the
// thread that works on the stream, and so beside other streams.

#include "backend/simulated/machine.hpp"

namespace thole::inline v0_1::detail::simulated {

/// Runs the kernel with the memory that it listed: of device memory a view of its own, which ends with the kernel. The
/// machine's mutex is locked, and unlocked meanwhile. Gives the reason where the kernel breaks the device.
const char* run_kernel(Lock& lock, const Kernel& kernel);

}  // namespace thole::inline v0_1::detail::simulated
