#include "hold.hpp"

#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace thole::detail {
namespace {

long membarrier(int command) noexcept { return syscall(SYS_membarrier, command, 0, 0); }

}  // namespace

constinit thread_local char this_thread = 0;
constinit std::atomic<bool> process_barrier{false};

void prepare_process_barrier() noexcept {
  static const bool once = [] {
    const bool has = membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) == 0;
    process_barrier.store(has, std::memory_order_relaxed);
    return has;
  }();
  (void)once;
}

void run_process_barrier() noexcept { (void)membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED); }

bool Hold::settle(std::uint64_t word) noexcept {
  if (borrows() == 0) return claim(word);
  // A borrow seems to be out. Either its end is on the way from another thread's store buffer, and is seen after the barrier,
  // or it comes later, and then sees that the handle is gone.
  if (process_barrier.load(std::memory_order_relaxed)) run_process_barrier();
  return borrows() == 0 && claim(word);
}

}  // namespace thole::detail
