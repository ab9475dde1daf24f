#pragma once

// A GPU's primary context. The runtime's calls work on the calling thread's current context, which may be none (then
// they would make one on GPU 0), another GPU's, or one of the program's own: so each call of ours asks which it is, and
// changes it only where it is not the device's.

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <thole/error.hpp>

namespace thole::inline v0_1::detail {

/// Whether this process may call CUDA: a forked child may not once its parent has.
bool may_call_cuda() noexcept;

/// Retains the GPU's primary context, which may take a second. It is never let go of.
Result<CUcontext> retain_primary_context(int ordinal);

/// Sets how many connections the contexts of this process will have (CUDA_DEVICE_MAX_CONNECTIONS), which the driver
/// reads when it is initialised: makes no call that would do that. Errors: invalid_argument where it is already, with
/// another number.
Result<void> set_connections(int ordinal, int connections);

/// Whether the runtime's calls of this thread, whose current GPU this is, work on its primary context.
bool current_is_primary(int ordinal) noexcept;

/// The context that the stream, not a default one, belongs to. Fails where the driver does not know the stream, and
/// where the device is lost.
cudaError_t context_of(CUstream stream, CUcontext* context) noexcept;

/// Records the event behind all that the context, which is the current one, has been given so far. CUDA: "Context
/// Management", cuCtxRecordEvent. Where the driver is older than that: waits until all is done, so that the event,
/// which serves again, is ready as it is.
cudaError_t record_in_context(CUcontext context, cudaEvent_t event) noexcept;

/// The context is the calling thread's current one while this lives. CUDA: "Context Management", cuCtxPushCurrent.
class CurrentContext {
 public:
  explicit CurrentContext(CUcontext wanted) noexcept;
  ~CurrentContext();
  CurrentContext(const CurrentContext&) = delete;
  CurrentContext& operator=(const CurrentContext&) = delete;

 private:
  bool pushed_ = false;
};

}  // namespace thole::inline v0_1::detail
