#include <thole/detail/process_barrier.hpp>

#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace thole::detail {
namespace {

long membarrier(int command) noexcept { return syscall(SYS_membarrier, command, 0, 0); }

}  // namespace

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

}  // namespace thole::detail
