#pragma once

#include <vector>

#include "job.hpp"
#include "summary.hpp"

namespace stream_file {

// Both do the first `bytes` of the files again, which lie in the page cache by then, and add a line for each way to the
// summary. Each way gets the best of up to three tries, while they take no longer than a second.

/// As the job did it, and unchecked, in its memory.
void compare_job(Summary& summary, const std::vector<InputFile>& files, std::uint64_t bytes,
                 const thole::PinnedHeap& heap, DeviceSide& device);
/// The bare link, and the ways without thole.
void compare_peers(Summary& summary, const std::vector<InputFile>& files, std::uint64_t bytes,
                   const thole::Device& device);

}  // namespace stream_file
