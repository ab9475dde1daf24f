#include "hold.hpp"

#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace thole::detail {
namespace {

// An address of one's own is the cheapest name for a thread. A later thread may get the same one: its predecessor is
// gone then, so there is still one writer.
[[gnu::tls_model("initial-exec")]] constinit thread_local char this_thread_ = 0;

// Set once before any block exists; false where the kernel (or a sandbox) refuses.
constinit std::atomic<bool> process_barrier_{false};

long membarrier(int command) noexcept { return syscall(SYS_membarrier, command, 0, 0); }

}  // namespace

void prepare_process_barrier() noexcept {
  static const bool once = [] {
    const bool has = membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) == 0;
    process_barrier_.store(has, std::memory_order_relaxed);
    return has;
  }();
  (void)once;
}

void Hold::begin(bool exclusive) noexcept {
  if (owner_.load(std::memory_order_relaxed) != &this_thread_ && borrows() == 0)
    owner_.store(&this_thread_, std::memory_order_relaxed);
  if (exclusive_.load(std::memory_order_relaxed) != exclusive) exclusive_.store(exclusive, std::memory_order_relaxed);
  begun_.store(begun_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
}

bool Hold::end_borrow() noexcept {
  if (owner_.load(std::memory_order_relaxed) == &this_thread_) {
    // Release: pairs with borrows().
    const auto ended = ended_here_.load(std::memory_order_relaxed) + 1;
    if (process_barrier_.load(std::memory_order_relaxed)) {
      ended_here_.store(ended, std::memory_order_release);
      std::atomic_signal_fence(std::memory_order_seq_cst);  // the other half is settle()'s membarrier
    } else {
      ended_here_.exchange(ended, std::memory_order_seq_cst);
    }
  } else {
    ended_elsewhere_.fetch_add(1, std::memory_order_seq_cst);
  }
  // seq_cst: after the count, against drop_handle() and drop_graph().
  const auto word = word_.load(std::memory_order_seq_cst);
  return (word & held) == 0 && borrows() == 0 && claim(word);
}

bool Hold::settle(std::uint64_t word) noexcept {
  if (borrows() == 0) return claim(word);
  // A borrow seems to be out. Either its end is on the way from another thread's store buffer, and is seen after the barrier,
  // or it comes later, and then sees that the handle is gone.
  if (process_barrier_.load(std::memory_order_relaxed)) membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED);
  return borrows() == 0 && claim(word);
}

}  // namespace thole::detail
