#pragma once

#include <string>

#include "log.hpp"
#include "summary.hpp"

namespace stream_file {

/// A picture of the job: GB/s over time, and the pinned buffers that were in use. SVG.
std::string as_svg(const Log& log, const Summary& summary);

}  // namespace stream_file
