#include <thole/detail/asymmetric_fence.hpp>

#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace thole::detail {
namespace {

long membarrier(int command) noexcept { return syscall(SYS_membarrier, command, 0, 0); }

}  // namespace

constinit std::atomic<bool> has_asymmetric_fence{false};

void prepare_asymmetric_fence() noexcept {
  static const bool once = [] {
    const bool has = membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) == 0;
    has_asymmetric_fence.store(has, std::memory_order_relaxed);
    return has;
  }();
  (void)once;
}

void run_asymmetric_fence() noexcept { (void)membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED); }

}  // namespace thole::detail
