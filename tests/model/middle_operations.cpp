// Captures that begin or end in the middle of a call, as another thread's may at any moment: hooks of the simulated
// device do it at a place that the seed decides.

#include <algorithm>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#include <fmt/format.h>

#include "api/handle_access.hpp"
#include "program.hpp"

namespace model {
namespace {

using thole::SimulatedCall;

thole::detail::DeviceBackend& backend(const thole::Device& device) {
  return *thole::detail::HandleAccess::core(device)->backend;
}

}  // namespace

void Program::capture_in_a_call() {
  if (fault_ || fault_seen_ || traits_.after_all) return;
  Lane* const lane = pick_lane(true);
  if (lane == nullptr) return;
  if (lane->branch_of != 0 || has_branches(*lane)) return;
  if (lane->capture) return end_in_a_copy(*lane);
  // A hook runs in whichever thread's record is next: there must be no other.
  if (chance(3) && lane->own && !traits_.orphans && !traits_.background) return capture_in_a_record(*lane);
  begin_in_a_copy(*lane);
}

/// Between thole's look at the stream and the copy: the graph has the copy, and thole takes the use for both.
void Program::begin_in_a_copy(Lane& lane) {
  HostBuffer* const from = pick_buffer();
  DeviceMemory* const to = pick(device_memory_);
  if (from == nullptr || to == nullptr || to->memory->device != lane.device || from->memory->writer) return;
  const std::size_t count = std::min(from->memory->count, to->memory->count);
  if (count == 0 || !order(lane, *from->memory, false) || !order(lane, *to->memory, true)) return;
  say(fmt::format("a capture begins in async_to_device({}) of {} words", lane.id, count));
  void* const native = thole::detail::HandleAccess::raw(*lane.ref, "model");
  auto simulation = device(lane).simulation();
  simulation.before_call(SimulatedCall::copy, [&] {
    if (!backend(device(lane)).begin_capture(native, thole::detail::CaptureMode::relaxed).ok())
      broken("a capture could not be begun");
  });
  const auto failed = call(true, {}, [&] { from->buffer.async_to_device(*lane.ref, to->buffer.span(), 0, count); });
  simulation.before_call(SimulatedCall::copy, nullptr);
  if (failed) return;
  lane.capture.emplace();
  captured(lane, {from->memory, to->memory, 0, 0, count, true});
  end_capture(lane);
  (void)lane.ref->native();  // the next call on a foreign stream covers the use, and no earlier one
  ledger_.look();
}

/// The graph keeps the memory; the copy is work of the stream.
void Program::end_in_a_copy(Lane& lane) {
  HostBuffer* const from = pick_buffer();
  DeviceMemory* const to = pick(device_memory_);
  if (from == nullptr || to == nullptr || to->memory->device != lane.device || from->memory->writer) return;
  const std::size_t count = std::min(from->memory->count, to->memory->count);
  if (count == 0 || ledger_.conflict(*from->memory, false, false) || ledger_.conflict(*to->memory, true, false)) return;
  say(fmt::format("the capture ends in async_to_device({}) of {} words", lane.id, count));
  for (const MemoryPtr& memory : {from->memory, to->memory}) (void)order(lane, *memory, true);
  auto simulation = device(lane).simulation();
  bool ended = false;
  simulation.before_call(SimulatedCall::copy, [&] {
    lane.capture->graph = simulation.end_capture(*lane.ref);
    ended = true;
  });
  // What is done may not be known to be: no event says so, and in a capture none can be had.
  const auto failed =
      call(true, {Errc::in_flight}, [&] { from->buffer.async_to_device(*lane.ref, to->buffer.span(), 0, count); });
  simulation.before_call(SimulatedCall::copy, nullptr);
  if (!ended) {
    if (!failed) broken("a copy without a copy");
    return;
  }
  for (const MemoryPtr& memory : {from->memory, to->memory}) memory->graphs.push_back(lane.capture->life);
  graphs_.push_back(std::move(*lane.capture));
  lane.capture.reset();
  enqueued(lane, {from->memory, to->memory, 0, 0, count, true});
}

/// The event is part of a graph that nobody has any more, and says nothing about the stream.
void Program::capture_in_a_record(Lane& lane) {
  say(fmt::format("a capture begins and ends in record({})", lane.id));
  void* const native = thole::detail::HandleAccess::raw(*lane.ref, "model");
  auto simulation = device(lane).simulation();
  // The library's own thread may record, too, for device memory that waits: then the hook waits for this one's record,
  // which may have gone by in the meantime. A hook runs inside a call of the seam, where nothing may be thrown.
  struct Middle {
    thole::Simulation simulation;
    std::mutex mutex;
    std::thread::id self = std::this_thread::get_id();
    bool over = false, began = false, ended = false, failed = false;
    std::function<void()> begin, end;
  };
  const auto middle = std::make_shared<Middle>(simulation);
  const auto left_to_another = [](Middle& m, bool before) {
    if (std::this_thread::get_id() == m.self) return false;
    const std::lock_guard lock(m.mutex);
    if (m.over) return true;
    if (before)
      m.simulation.before_call(SimulatedCall::record_event, m.begin);
    else
      m.simulation.after_call(SimulatedCall::record_event, m.end);
    return true;
  };
  auto* const seam = &backend(device(lane));
  middle->begin = [weak = std::weak_ptr(middle), left_to_another, seam, native] {
    const auto m = weak.lock();
    if (m == nullptr || left_to_another(*m, true)) return;
    m->began = seam->begin_capture(native, thole::detail::CaptureMode::relaxed).ok();
    m->failed |= !m->began;
  };
  middle->end = [weak = std::weak_ptr(middle), left_to_another, seam, native] {
    const auto m = weak.lock();
    if (m == nullptr || left_to_another(*m, false) || !m->began) return;
    m->ended = true;
    void* graph = nullptr;
    // Another thread's call in between may have invalidated it.
    m->failed |= seam->end_capture(native, &graph).ok() && !seam->destroy_graph(graph).ok();
  };
  simulation.before_call(SimulatedCall::record_event, middle->begin);
  simulation.after_call(SimulatedCall::record_event, middle->end);
  void_seen_ = true;
  std::optional<thole::Event> event;
  (void)call(true, {Errc::capturing}, [&] { event = lane.ref->record(); });
  {
    const std::lock_guard lock(middle->mutex);
    middle->over = true;
  }
  simulation.before_call(SimulatedCall::record_event, nullptr);
  simulation.after_call(SimulatedCall::record_event, nullptr);
  // The other thread may have had the hook in its hands just then.
  if (middle->began && !middle->ended) middle->end();
  if (middle->failed) broken("a capture could not be begun or not be ended");
  if (event && middle->began && chance(2)) (void)call(false, {Errc::capturing}, [&] { (void)event->ready(); });
  ledger_.look();
}

}  // namespace model
