#include "base/process_exit.hpp"

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <thread>

#include "base/immortal.hpp"

namespace thole::inline v0_1::detail {
namespace {

struct Calls {
  std::mutex mutex;
  std::condition_variable none;
  unsigned going_on = 0;
  bool ended = false;
};

// The threads that use it are not joined.
Calls& calls() noexcept { return immortal<Calls>(); }

bool begin_calls() noexcept {
  Calls& self = calls();
  const std::scoped_lock lock(self.mutex);
  if (self.ended) return false;
  ++self.going_on;
  return true;
}

constinit std::atomic<bool> ending{false};  // relaxed: pairs with nothing

}  // namespace

bool process_is_ending() noexcept { return ending.load(std::memory_order_relaxed); }

void end_calls_at_exit() noexcept {
  // Where it cannot be registered the process ends as it would without it. A forked child has none of the threads.
  static const pid_t process = [] {
    (void)std::atexit([] {
      if (getpid() == process) end_calls(std::chrono::seconds(1));
    });
    return getpid();
  }();
}

void end_calls(std::chrono::milliseconds at_most) noexcept {
  {
    Calls& self = calls();
    std::unique_lock lock(self.mutex);
    self.ended = true;
    self.none.wait_for(lock, at_most, [&] { return self.going_on == 0; });
  }
  ending.store(true, std::memory_order_relaxed);
}

void stand_still() noexcept {
  for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
}

BackgroundCalls::BackgroundCalls() noexcept : allowed_(begin_calls()) {}

BackgroundCalls::~BackgroundCalls() {
  if (!allowed_) return;
  Calls& self = calls();
  const std::scoped_lock lock(self.mutex);
  if (--self.going_on == 0) self.none.notify_all();
}

}  // namespace thole::inline v0_1::detail
