#include "base/spin_lock.hpp"

#include <chrono>
#include <thread>

namespace thole::inline v0_1::detail {

namespace {

/// Tells the processor that the thread waits: 10 to 50 ns.
void relax() noexcept {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb" ::: "memory");
#endif
}

}  // namespace

void pause_before_try(int tries) noexcept {
  // Some microseconds, which is longer than any holder needs that has a processor. A sleep takes 70 us, and who sleeps
  // for a lock that is free again soon makes the threads that it works with wait for it: then they sleep in turn.
  constexpr int tries_before_sleep = 256;
  if (tries < tries_before_sleep) return relax();
  std::this_thread::sleep_for(std::chrono::microseconds(20));
}

}  // namespace thole::inline v0_1::detail
