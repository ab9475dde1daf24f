#include <thole/detail/borrow_state.hpp>

namespace thole::detail {

bool Hold::settle(std::uint64_t word) noexcept {
  if (borrows() == 0) return claim(word);
  // A borrow seems to be out. Either its end is on the way from another thread's store buffer, and is seen after the
  // barrier, or it comes later, and then sees that the handle is gone.
  if (has_asymmetric_fence.load(std::memory_order_relaxed)) run_asymmetric_fence();
  return borrows() == 0 && claim(word);
}

}  // namespace thole::detail
