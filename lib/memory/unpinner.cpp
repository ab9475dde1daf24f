#include "memory/unpinner.hpp"

#include <condition_variable>
#include <mutex>
#include <system_error>

#include "base/background_thread.hpp"
#include "base/immortal.hpp"
#include "base/process_exit.hpp"

namespace thole::detail {

namespace {

struct Unpinner {
  std::mutex mutex;
  std::condition_variable wake;  // there is work
  std::condition_variable idle;  // there is none
  Region* work = nullptr;        // the regions that are to be unpinned, linked by Region::next
  bool busy = false;             // somebody unpins a region that is no longer in the list
  bool running = false;          // the thread is there
  std::size_t done = 0;          // regions unpinned so far

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
  auto& self = immortal<Unpinner>();
  const std::lock_guard lock(self.mutex);
  region->next = self.work;
  self.work = region;
  start(self);
  self.wake.notify_one();
}

Result<Region*> pin_region_or_wait(const std::shared_ptr<DeviceCore>& device, std::size_t bytes,
                                   const RegionOptions& options) {
  // An address range that is about to be parked is better than one more, which would stay for ever.
  if (options.pin == PinMethod::register_pages && bytes >= least_parked && !has_parked_range(bytes)) finish_unpinning();
  const std::size_t before = regions_unpinned_later();
  auto region = pin_region(device, bytes, options);
  if (region || region.error().errc() != Errc::limit) return region;
  finish_unpinning();
  if (regions_unpinned_later() == before) return region;
  return pin_region(device, bytes, options);
}

std::size_t regions_unpinned_later() noexcept {
  auto& self = immortal<Unpinner>();
  const std::lock_guard lock(self.mutex);
  return self.done;
}

void finish_unpinning() noexcept {
  auto& self = immortal<Unpinner>();
  std::unique_lock lock(self.mutex);
  for (;;) {
    self.idle.wait(lock, [&self] { return !self.busy && (self.work == nullptr || !self.running); });
    if (self.work == nullptr) return;
    self.unpin_next(lock);
  }
}

}  // namespace thole::detail
