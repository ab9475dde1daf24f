#pragma once

// What streams still do with a piece of memory, as plain data: one Use a stream. streams/uses.hpp has the rules.

#include <atomic>
#include <cstdint>
#include <memory>

#include "base/prefetch.hpp"
#include "base/spin_lock.hpp"

namespace thole::inline v0_1::detail {

class GraphWrite;
class Timeline;
struct Block;

/// One stream's uses of the memory. The slot is vacant while it names no stream.
struct Use {
  std::shared_ptr<Timeline> timeline;
  std::uint64_t read = 0;       ///< the position in the stream of the last read; 0: none
  std::uint64_t write = 0;      ///< the same of the last write
  std::uint32_t under_way = 0;  ///< calls that have taken the slot and will note a position, or take that back

  Use* next = nullptr;  ///< the memory's next slot; of a slot that nobody has, a link of the pool (block_pool.hpp)

  // Of a block's first slot, for the block:
  std::int64_t since_ns = 0;          ///< steady clock; the first use that was open when it was made
  std::shared_ptr<GraphWrite> early;  ///< says when the last launch of a graph that it was in has written the memory
  Block* first_child = nullptr;  ///< while it is retired: the heap of blocks that wait (streams/waiting_blocks.hpp)
};

/// All uses of one piece of memory, in a list of slots that grows when it must: memory that no stream has used needs
/// none. Several threads may have it used at once, since reading needs no exclusive access: the lock in the pointer
/// guards everything here, for some nanoseconds.
struct Uses {
  mutable LockedPointer<Use> slots;
  /// The first slot is looked at soon.
  void prefetch() const noexcept { detail::prefetch(slots.get()); }
};

}  // namespace thole::inline v0_1::detail
