// The seam's calls on streams, events and work, and what all of them need.

#include "backend/simulated/backend.hpp"

#include <algorithm>

#include "backend/simulated/call.hpp"
#include "backend/simulated/capture.hpp"
#include "backend/simulated/run.hpp"
#include "backend/simulated/waits.hpp"

namespace thole::inline v0_1::detail {

using namespace simulated;

namespace simulated {

StreamPtr make_stream(SimulatedDevice& device) {
  auto stream = std::make_shared<SimulatedStream>();
  stream->device = &device;
  stream->id = ++machine().last_stream_id;
  stream->mode = device.options.stepped ? SimulatedStream::Mode::stepped : SimulatedStream::Mode::automatic;
  device.streams.emplace(stream->id, stream);
  return stream;
}

/// What stream handles are: no address that any processor has, so that code which takes one for CUDA's ends at once.
constexpr std::uintptr_t first_handle = 0xdead'0000'0000'0000;
constexpr std::uintptr_t handle_step = 16;

StreamHandle handle_of(std::size_t slot) { return reinterpret_cast<StreamHandle>(first_handle + slot * handle_step); }

/// The slot of the handle, or nullptr.
StreamSlot* find_slot(StreamHandle handle) {
  const std::uintptr_t offset = reinterpret_cast<std::uintptr_t>(handle) - first_handle;
  auto& slots = machine().slots;
  return offset % handle_step == 0 && offset / handle_step < slots.size() ? &slots[offset / handle_step] : nullptr;
}

StreamPtr find_stream(SimulatedDevice& device, StreamHandle handle) {
  const auto made = [&](StreamPtr& stream) -> StreamPtr& {
    if (stream == nullptr) stream = make_stream(device);
    return stream;
  };
  if (handle == nullptr || handle == legacy_handle) return made(device.legacy_stream);
  if (handle == per_thread_handle) {
    const auto& stream = made(device.thread_streams[thread_number()]);
    stream->per_thread = true;
    return stream;
  }
  const StreamSlot* const slot = find_slot(handle);
  return slot != nullptr && slot->stream != nullptr && slot->stream->device != nullptr ? slot->stream : nullptr;
}

SimulatedEvent* find_event(EventHandle handle) {
  return machine().events.contains(handle) ? static_cast<SimulatedEvent*>(handle) : nullptr;
}

}  // namespace simulated

std::shared_ptr<DeviceBackend> make_simulated_backend(const SimulationOptions& options) {
  return std::make_shared<SimulatedBackend>(options);
}

SimulatedBackend::SimulatedBackend(const SimulationOptions& options)
    : device_(std::make_shared<SimulatedDevice>(options)) {
  const std::scoped_lock lock(machine().mutex);
  machine().devices.push_back(device_);
  device_->lost_because = machine().lost_because;
  device_->lost = !device_->lost_because.empty();
}

SimulatedBackend::~SimulatedBackend() {
  if (device_->process == this_process()) shut_down(*device_);
}

int SimulatedBackend::numa_node() const noexcept { return device_->options.numa_node.value_or(-1); }

std::string SimulatedBackend::describe(Status status) const {
  std::string text(refusal_text(status.native));
  if (status.code != StatusCode::device_lost || device_->process != this_process()) return text;
  const std::scoped_lock lock(machine().mutex);
  return device_->lost_because.empty() ? text : text + " (" + device_->lost_because + ")";
}

// ---- Streams

Status SimulatedBackend::create_stream(StreamHandle* stream, int priority) noexcept {
  constexpr int first = -5;  // as on a GPU; the last is 0
  return call(*device_, SimulatedCall::create_stream, [&](Lock&) -> Status {
    Machine& all = machine();
    if (all.free_slots.empty()) {
      all.slots.emplace_back();
      all.free_slots.push_back(handle_of(all.slots.size() - 1));
    }
    const StreamHandle handle = all.free_slots.back();
    const StreamPtr made = make_stream(*device_);
    made->priority = std::clamp(priority, first, 0);
    find_slot(handle)->stream = made;
    all.free_slots.pop_back();
    *stream = handle;
    return {};
  });
}

Status SimulatedBackend::destroy_stream(StreamHandle handle) noexcept {
  Garbage garbage;
  return call(
      *device_, SimulatedCall::destroy_stream,
      [&](Lock&) -> Status {
        StreamSlot* const slot = find_slot(handle);
        if (slot == nullptr || slot->stream == nullptr) return refuse(Refusal::invalid_handle);
        const auto stream = std::move(slot->stream);
        slot->stream = nullptr;
        machine().free_slots.push_back(handle);
        if (stream->device == nullptr) return {};
        if (const auto capture = stream->capture) {
          if (capture->origin == stream) {
            discard(capture, garbage);
          } else {
            invalidate(*capture);
          }
        }
        stream->destroyed = true;
        stream->mode =
            stream->device->options.stepped ? SimulatedStream::Mode::stepped : SimulatedStream::Mode::automatic;
        if (stream->queue.empty() && !stream->running) {
          stream->device->streams.erase(stream->id);
        } else {
          schedule(stream);
        }
        return {};
      },
      Lost::taken);
}

Status SimulatedBackend::synchronize_stream(StreamHandle handle) noexcept {
  return stream_call(
      *device_, SimulatedCall::synchronize_stream, handle, [&](Lock& lock, const auto& stream) -> Status {
        if (stream->capture) {
          invalidate(*stream->capture);
          return refuse(Refusal::capture_unsupported);
        }
        if (forbidden_by_capture()) return refuse(Refusal::capture_unsupported);
        // An allocation is the driver's bookkeeping: a caller who waits for nothing else needs nobody to step it.
        const auto allocates = [](const Operation& operation) { return operation.kind == Operation::Kind::allocate; };
        if (stream->mode == SimulatedStream::Mode::stepped && std::ranges::all_of(stream->queue, allocates)) {
          while (stream->can_go_on() && allocates(stream->queue.front())) run_one(lock, stream);
        }
        return wait_for_stream(lock, stream, stream->enqueued) ? Status{} : refuse(Refusal::lost);
      });
}

Status SimulatedBackend::stream_id(StreamHandle handle, std::uint64_t* id) noexcept {
  return stream_call(*device_, SimulatedCall::stream_id, handle, [&](Lock&, const auto& stream) -> Status {
    if (stream->capture) {
      invalidate(*stream->capture);
      return refuse(Refusal::capture_unsupported);
    }
    *id = stream->id;
    return {};
  });
}

Status SimulatedBackend::stream_priority(StreamHandle handle, int* priority) noexcept {
  return stream_call(*device_, SimulatedCall::stream_id, handle, [&](Lock&, const auto& stream) -> Status {
    *priority = stream->priority;
    return {};
  });
}

Status SimulatedBackend::check_stream(StreamHandle handle) noexcept {
  return stream_call(*device_, SimulatedCall::check_stream, handle, [&](Lock&, const auto& stream) -> Status {
    return stream->device == device_.get() ? Status{} : refuse(Refusal::another_device);
  });
}

Status SimulatedBackend::capture_info(StreamHandle handle, CaptureInfo* info) noexcept {
  return stream_call(*device_, SimulatedCall::capture_info, handle, [&](Lock&, const auto& stream) -> Status {
    CaptureInfo answer;
    if (const auto& capture = stream->capture) {
      answer.id = capture->id;
      answer.state = capture->invalidated ? CaptureInfo::State::invalidated : CaptureInfo::State::active;
      if (!capture->invalidated) answer.graph = capture->graph.get();
    }
    *info = answer;
    return {};
  });
}

// ---- Events

Status SimulatedBackend::create_event(EventHandle* event, EventFlags flags) noexcept {
  return call(*device_, SimulatedCall::create_event, [&](Lock&) -> Status {
    auto made = std::make_unique<SimulatedEvent>();
    made->device = device_.get();
    made->timing = flags.timing;
    machine().events.insert(made.get());
    *event = made.release();
    ++device_->live_events;
    return {};
  });
}

Status SimulatedBackend::destroy_event(EventHandle handle) noexcept {
  return call(
      *device_, SimulatedCall::destroy_event,
      [&](Lock&) -> Status {
        const std::unique_ptr<SimulatedEvent> event(find_event(handle));
        if (event == nullptr) return refuse(Refusal::invalid_handle);
        machine().events.erase(handle);
        if (event->device == device_.get()) --device_->live_events;
        return {};
      },
      Lost::taken);
}

Status SimulatedBackend::record_event(EventHandle handle, StreamHandle stream_handle) noexcept {
  return stream_call(*device_, SimulatedCall::record_event, stream_handle, [&](Lock&, const auto& stream) -> Status {
    SimulatedEvent* event = find_event(handle);
    if (event == nullptr || event->device != stream->device) return refuse(Refusal::invalid_handle);
    if (stream->capture) return capture_record(*stream, *event);
    Operation operation;
    operation.kind = Operation::Kind::record;
    operation.point = std::make_shared<Point>();
    event->point = operation.point;
    event->captured.reset();
    enqueue(stream, std::move(operation));
    return {};
  });
}

Status SimulatedBackend::record_device(EventHandle handle) noexcept {
  return call(*device_, SimulatedCall::record_device, [&](Lock&) -> Status {
    SimulatedEvent* event = find_event(handle);
    if (event == nullptr || event->device != device_.get()) return refuse(Refusal::invalid_handle);
    bool captures = false;
    for (const auto& [id, stream] : device_->streams) {
      if (!stream->capture) continue;
      invalidate(*stream->capture);
      captures = true;
    }
    if (captures) return refuse(Refusal::capture_unsupported);
    event->point = point_behind_all(*device_);
    event->captured.reset();
    return {};
  });
}

/// What asking for an event says that was last recorded in this capture.
static Status captured_event(Capture& capture) {
  if (capture.ended) return refuse(Refusal::invalid_value);
  invalidate(capture);
  return refuse(Refusal::captured_event);
}

Status SimulatedBackend::query_event(EventHandle handle) noexcept {
  return call(*device_, SimulatedCall::query_event, [&](Lock&) -> Status {
    SimulatedEvent* event = find_event(handle);
    if (event == nullptr) return refuse(Refusal::invalid_handle);
    if (forbidden_by_capture()) return refuse(Refusal::capture_unsupported);
    if (event->captured) return captured_event(*event->captured);
    if (event->point == nullptr || event->point->done) return {};
    demand(*event->point);
    return refuse(event->point->lost ? Refusal::lost : Refusal::not_ready);
  });
}

Status SimulatedBackend::synchronize_event(EventHandle handle) noexcept {
  return call(*device_, SimulatedCall::synchronize_event, [&](Lock& lock) -> Status {
    SimulatedEvent* event = find_event(handle);
    if (event == nullptr) return refuse(Refusal::invalid_handle);
    if (forbidden_by_capture()) return refuse(Refusal::capture_unsupported);
    if (event->captured) return captured_event(*event->captured);
    const auto point = event->point;
    if (point == nullptr) return {};
    demand(*point);
    ++device_->blocked_callers;
    machine().changed.wait(lock, [&] { return point->done || point->lost || device_->lost; });
    --device_->blocked_callers;
    return point->done ? Status{} : refuse(Refusal::lost);
  });
}

Status SimulatedBackend::elapsed(EventHandle from, EventHandle to, std::chrono::nanoseconds* time) noexcept {
  return call(*device_, SimulatedCall::query_event, [&](Lock&) -> Status {
    Duration at[2];
    for (int i = 0; i != 2; ++i) {
      SimulatedEvent* event = find_event(i == 0 ? from : to);
      if (event == nullptr || !event->timing) return refuse(Refusal::invalid_handle);
      if (event->captured) return captured_event(*event->captured);
      if (event->point == nullptr) return refuse(Refusal::invalid_handle);
      if (!event->point->done) return refuse(event->point->lost ? Refusal::lost : Refusal::not_ready);
      at[i] = event->point->at;
    }
    *time = at[1] - at[0];
    return {};
  });
}

Status SimulatedBackend::wait_event(StreamHandle stream_handle, EventHandle handle) noexcept {
  return stream_call(*device_, SimulatedCall::wait_event, stream_handle, [&](Lock&, const auto& stream) -> Status {
    SimulatedEvent* event = find_event(handle);
    if (event == nullptr) return refuse(Refusal::invalid_handle);
    if (stream->capture || event->captured) return capture_wait(stream, *event);
    if (event->point == nullptr) return {};
    if (event->point->lost) return refuse(Refusal::lost);
    Operation operation;
    operation.kind = Operation::Kind::wait;
    operation.point = event->point;
    enqueue(stream, std::move(operation));
    return {};
  });
}

Status SimulatedBackend::launch_host_function(StreamHandle handle, void (*function)(void*), void* argument) noexcept {
  return stream_call(*device_, SimulatedCall::host_function, handle, [&](Lock&, const auto& stream) -> Status {
    if (function == nullptr) return refuse(Refusal::invalid_value);
    Operation operation;
    operation.kind = Operation::Kind::host_function;
    operation.function = function;
    operation.argument = argument;
    if (stream->capture) return capture_node(*stream, std::move(operation));
    enqueue(stream, std::move(operation));
    return {};
  });
}

}  // namespace thole::inline v0_1::detail
