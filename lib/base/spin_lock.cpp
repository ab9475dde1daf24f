#include "base/spin_lock.hpp"

#include <chrono>
#include <thread>

namespace thole::inline v0_1::detail {

void pause_before_try(int tries) noexcept {
  constexpr int tries_before_sleep = 64;
  if (tries >= tries_before_sleep) std::this_thread::sleep_for(std::chrono::microseconds(20));
}

}  // namespace thole::inline v0_1::detail
