#pragma once

// What the device still does with a piece of memory: one Use a stream. Plain data; uses.hpp has the rules.

#include <array>
#include <atomic>
#include <cstdint>

namespace thole::detail {

class Timeline;

/// One stream's uses: the positions in that stream of the last read and the last write by the device. A position that
/// the timeline has completed no longer counts. Written by the owner of the handle only, or by who recycles the memory;
/// atomic (relaxed) so that heap.report() may look from another thread.
struct Use {
  std::atomic<Timeline*> timeline{nullptr};
  std::atomic<std::uint64_t> read{0};
  std::atomic<std::uint64_t> write{0};
};

/// Uses beyond the first; once made they stay with the record.
struct UseChunk {
  std::array<Use, 4> uses;
  std::atomic<UseChunk*> next{nullptr};
};

struct Uses {
  Use first;
  std::atomic<UseChunk*> more{nullptr};
};

}  // namespace thole::detail
