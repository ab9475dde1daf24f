#include "memory/departures.hpp"

#include <condition_variable>
#include <mutex>
#include <new>
#include <string>
#include <system_error>
#include <utility>

#include "base/background_thread.hpp"
#include "base/immortal.hpp"
#include "base/process_exit.hpp"
#include "memory/pinned_pool.hpp"

namespace thole::inline v0_1::detail {

namespace {

void end_adopted(Region* region) noexcept {
  const auto device = region->device;
  if (const Status status = let_go_of_adopted(region); !status.ok())
    device->keep_error(status, "PinnedArena::adopt", "unregister_host");
}

void finish(Departure& departure) noexcept {
  std::shared_ptr<DeviceCore> device;  // for errors, after the last region
  while (Region* const region = departure.regions) {
    departure.regions = std::exchange(region->next, nullptr);
    device = region->device;
    tell_removed(departure.hooks, *region, nullptr);
    region->adopted ? end_adopted(region) : keep_region(region);
  }
  if (!departure.release) return;
  try {
    departure.release();
  } catch (...) {
    if (device != nullptr) device->keep_error(thrown_error(Errc::limit, "release"));
  }
}

class Departures {
 public:
  /// Throws std::system_error where no thread can be had.
  void start() {
    const std::scoped_lock lock(mutex_);
    if (started_) return;
    background_thread([this] { run(); }).detach();
    started_ = true;
  }

  void add(Departure* departure) noexcept {
    const std::scoped_lock lock(mutex_);
    *last_ = departure;
    last_ = &departure->next;
    changed_.notify_one();
  }

 private:
  Departure* take() noexcept {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return first_ != nullptr; });
    Departure* const taken = first_;
    first_ = first_->next;
    if (first_ == nullptr) last_ = &first_;
    return taken;
  }

  void run() noexcept {
    for (;;) {
      Departure* const taken = take();
      const BackgroundCalls calls;  // while it works, not while it sleeps: the end of the process waits for it
      if (!calls) {
        left_ = taken;  // what the program's functions hold is the program's, which is ending
        return;
      }
      const std::unique_ptr<Departure> departure(taken);  // the end of what the functions hold may call, too
      finish(*departure);
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  Departure* first_ = nullptr;
  Departure** last_ = &first_;
  bool started_ = false;
  Departure* left_ = nullptr;  // the thread's own: never finished
};

}  // namespace

Result<std::unique_ptr<Departure>> prepare_departure(RegionHooks hooks) {
  std::unique_ptr<Departure> departure(new (std::nothrow) Departure);
  if (departure == nullptr)
    return tl::unexpected(
        Error::make(Errc::out_of_memory, [] { return std::string("PinnedArena: no memory for its records"); }));
  departure->hooks = std::move(hooks);
  try {
    immortal<Departures>().start();
  } catch (const std::system_error& error) {
    return tl::unexpected(Error::make(Errc::out_of_memory, [&] {
      return std::string("PinnedArena: no thread that would call the program back: ") + error.what();
    }));
  }
  return departure;
}

void depart(std::unique_ptr<Departure> departure) noexcept { immortal<Departures>().add(departure.release()); }

}  // namespace thole::inline v0_1::detail
