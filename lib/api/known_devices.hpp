#pragma once

// The devices of the process: GPUs by their ordinals, and the simulated ones that live, so that a native stream of
// others finds its device.

#include <memory>

#include <thole/device.hpp>

#include "backend/device_core.hpp"

namespace thole::inline v0_1::detail {

/// The GPU with this ordinal, made when it is first asked for. Errors: those of Device::try_cuda. Throws
/// std::bad_alloc.
Result<std::shared_ptr<DeviceCore>> known_gpu(int ordinal, int connections);
/// How many GPUs answer.
int gpu_count() noexcept;
/// A new simulated device. Throws std::bad_alloc, and Error for a THOLE_SIMULATION that is wrong.
std::shared_ptr<DeviceCore> new_simulated(const SimulationOptions& options);

/// The device whose stream it is: `near`, or another one of the same kind. A default stream is the one of the calling
/// thread's current device, as it is for CUDA's own calls. Errors: wrong_device for a context that is no GPU's primary
/// one, device_error.
Result<std::shared_ptr<DeviceCore>> device_of_native(const std::shared_ptr<DeviceCore>& near,
                                                     StreamHandle native) noexcept;
/// The calling thread's current device of the simulated ones; nullptr: none.
void make_current(const std::shared_ptr<DeviceBackend>& simulated) noexcept;

}  // namespace thole::inline v0_1::detail
