#include "heap/after_all.hpp"

#include <algorithm>
#include <chrono>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "backend/capture_guard.hpp"
#include "base/background_thread.hpp"
#include "base/immortal.hpp"
#include "base/process_exit.hpp"
#include "blocks/block_index.hpp"
#include "heap/heap_core.hpp"
#include "streams/stream_registry.hpp"

namespace thole::inline v0_1::detail {
namespace {

constexpr const char* whose = "PinnedHeap::deallocate_after_all";

/// Whether a capture is going on, as far as can be asked without harm to it: in a stream of the library's own, or, as
/// the legacy default stream says, in one that waits for that.
bool is_capturing(DeviceCore& device) noexcept {
  CaptureInfo info;
  const Status status = device.note(device.backend->capture_info(nullptr, &info));
  return status.code == StatusCode::capture || device.streams->own_stream_captures();
}

/// An event behind all that the device has been given. No capture of thole's begins between the look and the record,
/// which would invalidate it; one that begins later does no harm.
Status record_all(DeviceCore& device, EventHandle event) noexcept {
  const std::unique_lock lock(device.captures_begin);
  const CaptureGuard guard(*device.backend);  // where the driver is old, and waits
  return is_capturing(device) ? Status{StatusCode::capture} : device.note(device.backend->record_device(event));
}

Status wait_for_all(DeviceCore& device) noexcept {
  EventHandle event = nullptr;
  Status status = device.note(device.events.take(&event));
  if (!status.ok()) return status;
  status = record_all(device, event);
  if (status.ok()) {
    const CaptureGuard guard(*device.backend);
    status = device.note(device.backend->synchronize_event(event));
  }
  (void)device.events.give(event);
  return status;
}

class AfterAll {
 public:
  bool add(HeapCore& heap, void* data) {
    const std::shared_ptr<DeviceCore> device = heap.arena().device();
    const std::scoped_lock lock(mutex_);
    auto [found, is_new] = waiting_.try_emplace(device.get());
    auto& blocks = found->second;
    try {
      blocks.reserve(blocks.size() < blocks.capacity() ? blocks.capacity() : 2 * blocks.size() + 8);
      if (is_new) background_thread([this, device] { run(device); }).detach();
    } catch (...) {
      if (is_new) waiting_.erase(found);
      throw;
    }
    Block* const block = BlockIndex::remove(data, &heap);
    if (block != nullptr) blocks.push_back(block);
    return block != nullptr;
  }

 private:
  using Blocks = std::vector<Block*>;
  static constexpr auto shortest_pause = std::chrono::milliseconds(1);
  static constexpr auto longest_pause = std::chrono::milliseconds(64);

  /// Those that came before the wait that now begins. None: the thread is to end, and the next to come starts another.
  Blocks next_round(DeviceCore& device) noexcept {
    const std::scoped_lock lock(mutex_);
    const auto found = waiting_.find(&device);
    Blocks round = std::exchange(found->second, {});
    if (round.empty()) waiting_.erase(found);
    return round;
  }

  void run(const std::shared_ptr<DeviceCore>& device) noexcept {
    for (;;) {
      const Blocks round = next_round(*device);
      if (round.empty()) return;
      for (auto pause = shortest_pause;; pause = std::min(pause * 2, longest_pause)) {
        {
          const BackgroundCalls calls;  // while it calls, not while it sleeps: the end of the process waits for it
          if (!calls) return;
          const Status status = wait_for_all(*device);
          // At the end of the process calls are refused while the device goes on, and it counts as lost.
          if (process_is_ending()) return;
          if (status.ok() || device->lost()) {  // a device that is lost uses nothing any more
            for (Block* const block : round) end_handle(*block);
            break;
          }
          // Who cannot be sure keeps the memory, and asks again.
          if (status.code != StatusCode::capture) device->keep_error(status, whose, "waiting for the device");
        }
        std::this_thread::sleep_for(pause);
      }
    }
  }

  static void end_handle(Block& block) noexcept {
    HeapCore& heap = *block.heap.load(std::memory_order_relaxed);
    if (block.holders.drop_handle()) heap.release(&block);
  }

  std::mutex mutex_;
  std::map<DeviceCore*, Blocks> waiting_;  // an entry: a thread runs for the device, and keeps it
};

}  // namespace

bool end_handle_after_all(HeapCore& heap, void* data) { return immortal<AfterAll>().add(heap, data); }

}  // namespace thole::inline v0_1::detail
