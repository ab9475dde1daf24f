#pragma once

// What a borrow looks at, of the record of a piece of pinned memory. It stands in the open so that starting and ending
// a borrow needs no call; the rest of the record is the library's.

#include <atomic>
#include <cstdint>

#include <thole/detail/borrow_state.hpp>
#include <thole/detail/fork.hpp>

namespace thole::inline v0_1::detail {

struct BlockHead {
  BorrowState holders;
  /// Who made the record: records are made anew in a forked child, where the parent's memory is missing.
  const std::uint32_t process = this_process();
  /// Whether a stream has used the block since its uses were last forgotten. While false, nothing is in flight. Set and
  /// unset under the lock of the block's uses; acquire and release make a pair, so that what a use that is done wrote
  /// is seen.
  std::atomic<bool> used{false};

  bool of_this_process() const noexcept { return process == this_process(); }
  /// Whether a borrow need not look any further.
  bool untouched() const noexcept { return !used.load(std::memory_order_acquire) && of_this_process(); }
};

}  // namespace thole::inline v0_1::detail
