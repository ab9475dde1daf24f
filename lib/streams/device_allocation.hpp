#pragma once

#include <cstddef>

#include <thole/error.hpp>

#include "streams/submission.hpp"

namespace thole::inline v0_1::detail {

/// Device memory for work that is being submitted: allocated in the order of its stream, before the work. The work uses
/// it, as a write, but where a graph is captured and `in_graph` is false: then the memory is just there. On failure the
/// submission is over.
Result<DeviceBlock*> allocate_device(Submission& work, std::size_t bytes, bool in_graph) noexcept;

}  // namespace thole::inline v0_1::detail
