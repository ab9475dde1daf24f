#pragma once

#include <cstddef>
#include <cstdint>
#include <thole/thole.hpp>

#include "checks.hpp"
#include "files.hpp"
#include "progress.hpp"

namespace stream_file {

/// How the work is cut: at most `window` chunks of `chunk` bytes are on their way at a time, each in two pinned
/// buffers.
struct Shape {
  std::size_t chunk = 0;   ///< bytes
  std::size_t window = 0;  ///< chunks
};

/// Streams the file from where it stands, `limit` bytes at most, through pinned buffers to the device and back. The
/// bytes that came back go to `output` and the number of them to `progress`, where there are such. Returns when all is
/// back; the caller verifies.
Pass stream_through(InputFile& input, const thole::PinnedHeap& heap, const thole::StreamRef& stream, Shape shape,
                    std::uint64_t limit, OutputFile* output, Progress* progress);

}  // namespace stream_file
