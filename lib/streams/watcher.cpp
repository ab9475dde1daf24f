#include "streams/watcher.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <iterator>
#include <list>
#include <mutex>
#include <utility>
#include <vector>

#include "base/background_thread.hpp"
#include "base/host_function.hpp"
#include "base/immortal.hpp"
#include "base/process_exit.hpp"
#include "streams/stream_registry.hpp"
#include "streams/watch_pause.hpp"

namespace thole::inline v0_1::detail {
namespace {

class Watcher {
 public:
  void add(const std::shared_ptr<DeviceCore>& device, bool keenly) noexcept try {
    const std::scoped_lock lock(mutex_);
    const auto known = std::ranges::find(watched_, device, &Watched::device);
    if (known == watched_.end())
      watched_.push_back({device, keenly});
    else
      known->keenly = known->keenly || keenly;
    if (known != watched_.end()) known->asked = true;
    device->watched.store(true, std::memory_order_relaxed);
    wake();
  } catch (...) {
    // No memory or no thread: the next call that collects does it.
  }

  /// Whoever holds the device no more has no way left to hand it over a second time.
  void end(DeviceCore* device) noexcept {
    const std::scoped_lock lock(mutex_);
    device->next_to_end = std::exchange(to_end_, device);
    try {
      wake();
    } catch (...) {
      // No thread to be had: whoever gets one next ends it.
    }
  }

  void tidy(const std::shared_ptr<DeviceCore>& device) noexcept try {
    const std::scoped_lock lock(mutex_);
    if (std::ranges::find(to_tidy_, device) == to_tidy_.end()) to_tidy_.push_back(device);
    wake();
  } catch (...) {
    // No memory or no thread: whoever comes next asks again, and what is left goes with the device.
  }

 private:
  struct Watched {
    std::shared_ptr<DeviceCore> device;
    bool keenly;
    bool asked = true;  // since the round began that goes on: what there is may have been looked at before it was there
  };
  /// Under the mutex. Says that the device is not watched before it looks for the last time: see is_watched().
  static bool still_needed(DeviceCore& device) noexcept {
    // The blocks that were in flight on a lost device never come back.
    const auto has_work = [&] { return device.lost() ? device.streams->has_loose_ends() : device.streams->has_work(); };
    if (has_work()) return true;
    device.watched.store(false, std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (!has_work()) return false;
    device.watched.store(true, std::memory_order_relaxed);
    return true;
  }

  /// On a thread of its own: it may block as long as a stream is stuck, and this thread looks after all devices.
  static void tidy_apart(const std::shared_ptr<DeviceCore>& device) noexcept try {
    if (!device->is_untidy() || !device->begin_tidying()) return;
    try {
      background_thread([held = device]() mutable {
        for (;;) {
          const BackgroundCalls calls;
          if (!calls) {
            held->end_tidying();  // the program's own threads may still want to
            stand_still();
          }
          held->tidy();
          held->end_tidying();
          // What came meanwhile found this thread at work.
          if (!held->has_too_much() || !held->begin_tidying()) return held.reset();  // may end it: inside of `calls`
        }
      }).detach();
    } catch (...) {
      device->end_tidying();
      throw;
    }
  } catch (...) {
    // As in tidy().
  }

  void wake() {
    if (!started_) {
      background_thread([this] { run(); }).detach();
      started_ = true;
    }
    news_ = true;
    changed_.notify_one();
  }

  void run() noexcept {
    WatchPause pause = shortest_watch_pause;
    std::unique_lock lock(mutex_);
    for (;;) {
      if (watched_.empty())
        changed_.wait(lock, [this] { return news_; });
      else
        changed_.wait_for(lock, pause, [this] { return news_; });
      const bool news = std::exchange(news_, false);
      for (Watched& watched : watched_) watched.asked = false;
      auto* ending = std::exchange(to_end_, nullptr);
      auto tidying = std::exchange(to_tidy_, {});
      lock.unlock();
      const BackgroundCalls calls;  // while it looks, not while it sleeps: the end of the process waits for it
      if (!calls) stand_still();
      while (ending != nullptr) delete std::exchange(ending, ending->next_to_end);
      for (const auto& device : tidying) tidy_apart(device);
      tidying.clear();
      bool progress = false;
      bool keenly = false;
      lock.lock();
      // Only this thread takes any out, so that the place stays good while the lock is not held.
      for (const Watched& watched : watched_) {
        keenly = keenly || watched.keenly;
        // Beside a thread that makes and drops, what this one took would come back to that one through the heap's
        // depot.
        const auto wanted = watched.keenly ? Wanted::finished : Wanted::left_behind;
        lock.unlock();
        progress = watched.device->collect(*watched.device, wanted) != 0 || progress;
        lock.lock();
      }
      pause = news || progress ? shortest_watch_pause : next_watch_pause(pause, keenly);
      std::list<Watched> gone;  // with the last references, perhaps: destroyed outside of the lock
      for (auto at = watched_.begin(); at != watched_.end();) {
        const auto next = std::next(at);
        if (!at->asked && !still_needed(*at->device)) gone.splice(gone.end(), watched_, at);
        at = next;
      }
      lock.unlock();
      gone.clear();
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::list<Watched> watched_;
  DeviceCore* to_end_ = nullptr;
  std::vector<std::shared_ptr<DeviceCore>> to_tidy_;
  bool news_ = false;
  bool started_ = false;
};

}  // namespace

// A device that is lost, too: once, to let go of the records that would keep it for ever.
void watch(const std::shared_ptr<DeviceCore>& device, bool keenly) noexcept {
  if (!device->of_another_process()) immortal<Watcher>().add(device, keenly);
}

void tidy_up(const std::shared_ptr<DeviceCore>& device) noexcept {
  if (!device->of_another_process()) immortal<Watcher>().tidy(device);
}

void give_event(const std::shared_ptr<DeviceCore>& device, EventHandle event, bool timed) noexcept {
  if (device->events.give(event, timed) && !device->is_tidying()) tidy_up(device);
}

void end_device(DeviceCore* device) noexcept {
  if (in_host_function() && !device->of_another_process())
    immortal<Watcher>().end(device);
  else
    delete device;
}

}  // namespace thole::inline v0_1::detail
