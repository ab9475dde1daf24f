#pragma once

// What streams still do with a piece of memory, as plain data: one Use a stream. streams/uses.hpp has the rules.

#include <array>
#include <cstdint>
#include <memory>

#include "base/spin_lock.hpp"

namespace thole::detail {

class GraphWrite;
class Timeline;

/// One stream's uses of the memory. The slot is vacant while it names no stream.
struct Use {
  std::shared_ptr<Timeline> timeline;
  std::uint64_t read = 0;       ///< the position in the stream of the last read; 0: none
  std::uint64_t write = 0;      ///< the same of the last write
  std::uint32_t under_way = 0;  ///< calls that have taken the slot and will note a position, or take that back
};

/// Slots beyond the first. Once made they stay with the record.
struct UseBatch {
  std::array<Use, 4> uses;
  UseBatch* next = nullptr;
};

/// All uses of one piece of memory. Several threads may have it used at once, since reading needs no exclusive access:
/// the lock guards everything here, for some nanoseconds.
struct Uses {
  mutable SpinLock lock;
  Use first;
  UseBatch* more = nullptr;
  std::shared_ptr<GraphWrite> early;  ///< says when the last launch of a graph that it was in has written the memory
};

}  // namespace thole::detail
