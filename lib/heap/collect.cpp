#include "heap/collect.hpp"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "base/background_thread.hpp"
#include "base/process_exit.hpp"
#include "heap/heap_core.hpp"
#include "streams/device_block.hpp"
#include "streams/stream_registry.hpp"
#include "streams/submission.hpp"

namespace thole::detail {
namespace {

std::size_t hand_over(MovingBlocks& blocks) noexcept {
  std::size_t count = 0;
  for (; Block* const block = blocks.pop(); ++count) block->heap.load(std::memory_order_relaxed)->reclaim(block);
  return count;
}

std::size_t let_go_of_graphs() noexcept {
  MovingBlocks blocks;
  take_graph_released(blocks);
  std::size_t count = 0;
  for (; Block* const block = blocks.pop(); ++count) block->heap.load(std::memory_order_relaxed)->release(block);
  return count;
}

/// The library's own thread: sleeps while nothing is watched.
class Watcher {
 public:
  struct Watched {
    std::weak_ptr<DeviceCore> device;
    std::weak_ptr<void> heap;
    enum class Until { drained, orphan_drained, heap_gone } until;
  };

  // Never destroyed, and its thread is never joined: what it watches may outlive main.
  static Watcher& get() noexcept {
    static auto* const made = new Watcher;
    return *made;
  }

  void add(Watched watched) noexcept try {
    const std::scoped_lock lock(mutex_);
    const auto same = [&](const Watched& other) {
      return other.until == watched.until && !other.device.owner_before(watched.device) &&
             !watched.device.owner_before(other.device) && watched.until != Watched::Until::heap_gone;
    };
    if (std::ranges::any_of(watched_, same)) return;
    if (!started_) {
      background_thread([this] { run(); }).detach();
      started_ = true;
    }
    watched_.push_back(std::move(watched));
    added_.notify_one();
  } catch (...) {
    // No memory or no thread: the next call that collects does it.
  }

 private:
  using Until = Watched::Until;
  static constexpr auto shortest_pause = std::chrono::milliseconds(1);
  static constexpr auto longest_pause = std::chrono::milliseconds(64);

  void run() noexcept {
    auto pause = shortest_pause;
    std::unique_lock lock(mutex_);
    for (;;) {
      if (watched_.empty()) {
        added_.wait(lock);
        pause = shortest_pause;
      }
      {
        auto round = watched_;
        lock.unlock();
        const BackgroundCalls calls;  // while it looks, not while it sleeps: the end of the process waits for it
        if (!calls) return;
        bool progress = false;
        bool in_background = false;
        for (Watched& watched : round) {
          progress = look_at(watched) || progress;
          in_background = in_background || watched.until == Until::heap_gone;
        }
        round.clear();
        pause = progress || in_background ? shortest_pause : std::min(pause * 2, longest_pause);
        lock.lock();
        std::erase_if(watched_, [](const Watched& watched) { return ended(watched); });
      }
      if (!watched_.empty()) added_.wait_for(lock, pause);
    }
  }

  static bool has_work(DeviceCore& device) noexcept {
    return device.timelines->has_work() || device_blocks_wait(device);
  }

  static bool look_at(const Watched& watched) noexcept {
    const auto device = watched.device.lock();
    if (device == nullptr || !has_work(*device)) return false;
    if (watched.until == Until::orphan_drained &&
        device.use_count() - 1 > device->orphan_references.load(std::memory_order_relaxed))
      return false;  // the program still has it, and collects when it wants memory
    return collect(*device) != 0;
  }

  static bool ended(const Watched& watched) noexcept {
    const auto device = watched.device.lock();
    if (device == nullptr || device->lost()) return true;
    return watched.until == Until::heap_gone ? watched.heap.expired() : !has_work(*device);
  }

  std::mutex mutex_;
  std::condition_variable added_;
  std::vector<Watched> watched_;
  bool started_ = false;
};

}  // namespace

std::size_t collect(DeviceCore& device) noexcept {
  let_go_of_graphs();
  MovingBlocks blocks;
  device.timelines->poll(blocks, true);
  try {
    for (const auto& other : devices_that_serve_others(device)) {
      other->timelines->poll(blocks, true);
      free_waiting_device_blocks(*other);
    }
  } catch (const std::bad_alloc&) {
    // What other devices have finished is found the next time.
  }
  const std::size_t count = hand_over(blocks);
  free_waiting_device_blocks(device);
  return count;
}

std::size_t collect_some(Timeline& timeline) noexcept {
  if (!timeline.has_work()) return 0;
  MovingBlocks blocks;
  timeline.poll(blocks, false);
  return hand_over(blocks);
}

std::size_t collect_any(DeviceCore& device) noexcept {
  Timeline* const timeline = device.timelines->next_with_work();
  return timeline != nullptr ? collect_some(*timeline) : 0;
}

std::size_t collect_stream(Timeline& timeline) noexcept {
  MovingBlocks blocks;
  timeline.poll(blocks, true);
  const std::size_t count = hand_over(blocks);
  free_waiting_device_blocks(*timeline.device());
  return count;
}

void watch(const std::weak_ptr<DeviceCore>& device) noexcept {
  Watcher::get().add({device, {}, Watcher::Watched::Until::drained});
}

void watch_orphan(const std::weak_ptr<DeviceCore>& device) noexcept {
  if (const auto alive = device.lock(); alive == nullptr || alive->immortal) return;
  Watcher::get().add({device, {}, Watcher::Watched::Until::orphan_drained});
}

void watch_for(const std::weak_ptr<DeviceCore>& device, const std::weak_ptr<void>& heap) noexcept {
  Watcher::get().add({device, heap, Watcher::Watched::Until::heap_gone});
}

}  // namespace thole::detail
