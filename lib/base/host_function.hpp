#pragma once

// Functions that a device calls back: host functions in a stream, functions for the CPU of a simulated device's
// kernels, what a graph lets go of. No call of the device is allowed in them (CUDA: "Execution Control",
// cudaLaunchHostFunc), so that handles which are dropped there leave the rest to the library's own thread.

namespace thole::inline v0_1::detail {

/// While it lives, the calling thread is in such a function.
class InHostFunction {
 public:
  InHostFunction() noexcept;
  ~InHostFunction();
  InHostFunction(const InHostFunction&) = delete;
  InHostFunction& operator=(const InHostFunction&) = delete;
};

/// Whether the calling thread is in one.
bool in_host_function() noexcept;

}  // namespace thole::inline v0_1::detail
