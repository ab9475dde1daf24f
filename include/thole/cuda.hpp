#pragma once

// The one header that names CUDA types: for programs that have streams of their own.

#if !__has_include(<cuda_runtime_api.h>)
#error "<thole/cuda.hpp> needs the CUDA toolkit's cuda_runtime_api.h on the include path"
#else
#include <cuda_runtime_api.h>

#include <thole/device.hpp>
#include <thole/stream.hpp>

namespace thole::inline v0_1 {

/// A view of a stream that other code made: PyTorch, a library, the program itself; also the legacy default stream (0
/// or `cudaStreamLegacy`) and `cudaStreamPerThread`. All views of one native stream share one timeline; a stream made
/// later with the same handle value is another one (cudaStreamGetId). Every use through it records an event at once, so
/// that thole never touches the stream after the call. A stream that captures may be viewed, too: of one CUDA tells no
/// number, so that such a view has a timeline of its own and is closed when the stream is next viewed outside of a
/// capture; make another one then. Throws `Error`: `wrong_device`, `device_lost`,
/// `invalid_argument`.
inline StreamRef from_native(const Device& device, cudaStream_t stream) {
  return detail::unwrap(detail::stream_from_native(device, stream));
}

/// The raw handle of a stream on a GPU.
inline cudaStream_t native(const StreamRef& stream) { return stream.native(); }

}  // namespace thole::inline v0_1
#endif
