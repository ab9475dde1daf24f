#include "backend/simulated/waits.hpp"

#include <algorithm>
#include <utility>
#include <vector>

namespace thole::inline v0_1::detail::simulated {

void demand(SimulatedStream& stream, std::uint64_t completed) {
  if (stream.device == nullptr || !stream.device->late() || stream.demanded >= completed) return;
  stream.demanded = completed;
  std::uint64_t position = stream.enqueued - stream.queue.size();
  for (const Operation& operation : stream.queue) {
    if (++position > completed) break;
    if (operation.kind == Operation::Kind::wait) demand(*operation.point);
  }
  machine().changed.notify_all();
}

void demand(const Point& point) {
  if (const StreamPtr stream = point.stream.lock()) demand(*stream, point.position);
}

void demand_all() {
  for (const auto& device : machine().devices) {
    for (const auto& [id, stream] : device->streams) demand(*stream, stream->enqueued);
  }
}

bool wait_for_stream(Lock& lock, const StreamPtr& stream, std::uint64_t completed) {
  SimulatedDevice& device = *stream->device;
  demand(*stream, completed);
  ++device.blocked_callers;
  machine().changed.wait(lock, [&] { return device.lost || stream->completed >= completed; });
  --device.blocked_callers;
  return !device.lost;
}

bool wait_for_room(Lock& lock, const StreamPtr& stream) {
  SimulatedDevice& device = *stream->device;
  const std::size_t limit = device.queue_limit();
  if (limit == 0 || stream->places < limit) return true;
  ++device.blocked_callers;
  ++device.callers_at_full_queues;
  machine().changed.wait(lock, [&] { return device.lost || stream->places < limit; });
  --device.callers_at_full_queues;
  --device.blocked_callers;
  machine().changed.notify_all();
  return !device.lost;
}

void wait_for_running_work(Lock& lock, SimulatedDevice& device) {
  const auto idle = [] {
    return std::ranges::all_of(machine().devices, [](const auto& each) {
      return each->lost || each->options.stepped || std::ranges::all_of(each->streams, [](const auto& entry) {
               return entry.second->completed == entry.second->enqueued;
             });
    });
  };
  demand_all();
  machine().unpinning = true;
  ++device.blocked_callers;
  machine().changed.wait(lock, idle);
  --device.blocked_callers;
  machine().unpinning = false;
  machine().changed.notify_all();
}

void wait_for_driver_locks(Lock& lock, SimulatedDevice& device, bool unpinning, bool full_queues) {
  const auto held = [&] {
    return (unpinning && machine().unpinning) || (full_queues && device.callers_at_full_queues != 0 && !device.lost);
  };
  if (!held()) return;
  ++device.blocked_callers;
  machine().changed.wait(lock, [&] { return !held(); });
  --device.blocked_callers;
}

void wait_while_touched(Lock& lock, const Range& range) {
  machine().changed.wait(lock, [&] {
    for (const auto& device : machine().devices) {
      for (const auto& [id, stream] : device->streams) {
        const Operation* current = stream->current;
        if (current != nullptr && current->moves_memory() && current->touches(range)) return false;
      }
    }
    return true;
  });
}

}  // namespace thole::inline v0_1::detail::simulated
