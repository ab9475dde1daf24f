#pragma once

// What CUDA's errors mean to the layers above.

#include <cuda_runtime_api.h>

#include "backend/backend.hpp"

namespace thole::inline v0_1::detail {

/// The Status of a runtime call that has just returned `error`. A failure is taken out of the thread's last error, so
/// that the program's next cudaGetLastError() does not find it.
Status status_of(cudaError_t error) noexcept;

}  // namespace thole::inline v0_1::detail
