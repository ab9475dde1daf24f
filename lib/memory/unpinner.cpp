// The thread that unpins what nobody uses any more: cudaHostUnregister waits for running kernels, and letting go of an
// arena must not. It starts with the first region that it gets, and rests for ever after: it is never joined, and what
// it uses is never destroyed, so that arenas may end in static destructors and after main.

#include <condition_variable>
#include <mutex>
#include <system_error>

#include "base/background_thread.hpp"
#include "base/process_exit.hpp"
#include "memory/region.hpp"

namespace thole::detail {

namespace {

struct Unpinner {
  std::mutex mutex;
  std::condition_variable wake;  // there is work
  std::condition_variable idle;  // there is none
  Region* work = nullptr;
  bool busy = false;  // with a region that is no longer in the list
  bool running = false;
  std::size_t done = 0;  // regions

  void run() noexcept {
    std::unique_lock lock(mutex);
    for (;;) {
      wake.wait(lock, [this] { return work != nullptr; });
      const BackgroundCalls calls;
      if (!calls) break;
      unpin_next(lock);
    }
    running = false;
    idle.notify_all();
  }

  void unpin_next(std::unique_lock<std::mutex>& lock) noexcept {
    Region* const region = work;
    work = region->next;
    region->next = nullptr;
    busy = true;
    lock.unlock();
    unpin_region(region);
    lock.lock();
    busy = false;
    ++done;
    if (work == nullptr || !running) idle.notify_all();
  }
};

Unpinner& unpinner() {
  static auto* const instance = new Unpinner;
  return *instance;
}

void start(Unpinner& self) noexcept {
  if (self.running) return;
  try {
    background_thread([&self] { self.run(); }).detach();
    self.running = true;
  } catch (const std::system_error&) {
    // No thread to be had: as at the end of the process, whoever waits in finish_unpinning() does the work.
  }
}

}  // namespace

void unpin_region_later(Region* region) noexcept {
  Unpinner& self = unpinner();
  const std::lock_guard lock(self.mutex);
  region->next = self.work;
  self.work = region;
  start(self);
  self.wake.notify_one();
}

std::size_t regions_unpinned_later() noexcept {
  Unpinner& self = unpinner();
  const std::lock_guard lock(self.mutex);
  return self.done;
}

void finish_unpinning() noexcept {
  Unpinner& self = unpinner();
  std::unique_lock lock(self.mutex);
  for (;;) {
    self.idle.wait(lock, [&self] { return !self.busy && (self.work == nullptr || !self.running); });
    if (self.work == nullptr) return;
    self.unpin_next(lock);
  }
}

}  // namespace thole::detail
