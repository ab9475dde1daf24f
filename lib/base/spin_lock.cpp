#include "base/spin_lock.hpp"

#include <chrono>
#include <thread>

namespace thole::detail {

void SpinLock::wait() noexcept {
  constexpr int tries_before_sleep = 64;
  for (int tries = 0;; ++tries) {
    if (tries >= tries_before_sleep) std::this_thread::sleep_for(std::chrono::microseconds(20));
    if (!taken_.load(std::memory_order_relaxed) && !taken_.exchange(true, std::memory_order_acquire)) return;
  }
}

}  // namespace thole::detail
