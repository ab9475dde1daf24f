#include "backend/cuda/cuda_errors.hpp"

namespace thole::inline v0_1::detail {
namespace {

// CUDA: "CUDA Runtime API", Data types, cudaError: the sticky ones say
// that the process must be ended to use CUDA again.
StatusCode code_of(cudaError_t error) noexcept {
  // Two of them by number: CUDA 12's first runtimes have no name for them, while their driver may report them.
  constexpr int contained = 226, tensor_memory_leak = 721;
  switch (static_cast<int>(error)) {
    case cudaSuccess:
      return StatusCode::ok;
    case cudaErrorNotPermitted:
      return StatusCode::not_permitted;
    case cudaErrorNotReady:
      return StatusCode::not_ready;
    case cudaErrorMemoryAllocation:
      return StatusCode::out_of_memory;
    case cudaErrorCudartUnloading:
      return StatusCode::unloading;
    case cudaErrorInvalidValue:
    case cudaErrorInvalidResourceHandle:
    case cudaErrorInvalidDevicePointer:
    case cudaErrorHostMemoryAlreadyRegistered:
    case cudaErrorHostMemoryNotRegistered:
      return StatusCode::invalid;
    case cudaErrorStreamCaptureUnsupported:
    case cudaErrorStreamCaptureInvalidated:
    case cudaErrorStreamCaptureMerge:
    case cudaErrorStreamCaptureUnmatched:
    case cudaErrorStreamCaptureUnjoined:
    case cudaErrorStreamCaptureIsolation:
    case cudaErrorStreamCaptureImplicit:
    case cudaErrorStreamCaptureWrongThread:
    case cudaErrorIllegalState:  // what ending a capture says after another thread has tried to
    case cudaErrorCapturedEvent:
      return StatusCode::capture;
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case contained:
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorContextIsDestroyed:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case tensor_memory_leak:
    case cudaErrorMpsClientTerminated:
    case cudaErrorExternalDevice:
      return StatusCode::device_lost;
    default:
      return StatusCode::failed;
  }
}

}  // namespace

Status status_of(cudaError_t error) noexcept {
  if (error != cudaSuccess && cudaPeekAtLastError() == error) (void)cudaGetLastError();
  return {code_of(error), static_cast<int>(error)};
}

}  // namespace thole::inline v0_1::detail
