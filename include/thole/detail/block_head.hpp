#pragma once

// What a borrow looks at, of the record of a piece of pinned memory: who holds it and what the device does with it. It
// stands in the open so that starting and ending a borrow needs no call; lib/block.hpp has the rest of the record.

#include <thole/detail/borrow_state.hpp>
#include <thole/detail/use.hpp>

namespace thole::detail {

struct BlockHead {
  Hold hold;
  Uses uses;

  /// No use is noted, so that nothing is in flight: what a borrow finds nearly always. The first slot is taken first,
  /// and forgotten only with all others.
  bool untouched() const noexcept { return uses.first.timeline.load(std::memory_order_relaxed) == nullptr; }
};

}  // namespace thole::detail
