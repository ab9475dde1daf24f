#pragma once

// The GPU, through CUDA's runtime. This folder is the only one of the library that calls CUDA.

#include <memory>

#include <thole/error.hpp>

#include "backend/backend.hpp"

namespace thole::inline v0_1::detail {

/// How many GPUs answer; 0 where there is no driver, and in a forked child of a process that has used CUDA.
int cuda_device_count() noexcept;

/// The ordinal of the GPU that the stream belongs to; a default one is the calling thread's current GPU's. wrong_device
/// where the current context is not that GPU's primary one, invalid for a stream that is none.
Status cuda_device_of(StreamHandle stream, int* ordinal) noexcept;

/// Asks for so many connections (DeviceOptions) of a device that make_cuda_backend has made, or will make. Errors:
/// invalid_argument where it is too late.
Result<void> set_cuda_connections(int ordinal, int connections);

/// Initialises the device's primary context, which may take a second, and no other device's. Errors: no_device,
/// device_error, device_lost.
Result<std::shared_ptr<DeviceBackend>> make_cuda_backend(int ordinal, int connections = 0);

}  // namespace thole::inline v0_1::detail
