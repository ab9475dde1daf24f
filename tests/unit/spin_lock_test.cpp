// The lock in one byte.

#include <atomic>
#include <thread>
#include <vector>

#include <doctest/doctest.h>
#include <pthread.h>
#include <sched.h>

#include "base/spin_lock.hpp"

using thole::detail::SpinGuard;
using thole::detail::SpinLock;

namespace {

bool set_real_time(int priority) {
  sched_param parameter{};
  parameter.sched_priority = priority;
  return pthread_setschedparam(pthread_self(), SCHED_FIFO, &parameter) == 0;
}

/// The calling thread has one processor, and runs before all threads that are
/// not real-time.
class OneProcessor {
 public:
  OneProcessor() {
    (void)sched_getaffinity(0, sizeof(before_), &before_);
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(static_cast<std::size_t>(sched_getcpu()), &one);
    allowed_ = sched_setaffinity(0, sizeof(one), &one) == 0 && set_real_time(1);
  }
  ~OneProcessor() {
    const sched_param ordinary{};
    (void)pthread_setschedparam(pthread_self(), SCHED_OTHER, &ordinary);
    (void)sched_setaffinity(0, sizeof(before_), &before_);
  }
  OneProcessor(const OneProcessor&) = delete;
  OneProcessor& operator=(const OneProcessor&) = delete;
  bool allowed() const { return allowed_; }

 private:
  cpu_set_t before_{};
  bool allowed_ = false;
};

}  // namespace

TEST_CASE("a spin lock keeps threads apart") {
  SpinLock lock;
  int count = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i != 4; ++i)
    threads.emplace_back([&] {
      for (int n = 0; n != 20'000; ++n) {
        const SpinGuard guard(lock);
        ++count;
      }
    });
  for (auto& thread : threads) thread.join();
  CHECK(count == 80'000);
}

TEST_CASE(
    "a real-time thread that waits for a spin lock lets a holder of "
    "lower priority have their processor") {
  const OneProcessor one;
  if (!one.allowed()) {
    MESSAGE("this process may not ask for real-time scheduling");
    return;
  }
  SpinLock lock;
  lock.lock();
  std::atomic<bool> has_it{false};
  std::thread waits([&] {  // inherits both
    (void)set_real_time(2);
    const SpinGuard guard(lock);
    has_it = true;
  });
  // From here on this thread runs only while the other one sleeps.
  CHECK(!has_it);
  lock.unlock();
  waits.join();
  CHECK(has_it);
}
