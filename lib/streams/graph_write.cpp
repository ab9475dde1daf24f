#include "streams/graph_write.hpp"

#include <new>

#include "backend/ask_until.hpp"
#include "base/trace_log.hpp"
#include "streams/timeline.hpp"
#include "streams/watcher.hpp"

namespace thole::inline v0_1::detail {

GraphWrite::~GraphWrite() {
  if (device_->of_another_process()) return;
  for (EventHandle const event : events_) give_event(device_, event);
}

void GraphWrite::add(StreamHandle native) noexcept try {
  events_.reserve(events_.size() + 1);
  EventHandle event = nullptr;
  if (!device_->note(device_->events.take(&event)).ok()) return;
  if (device_->note(device_->backend->record_event_in_graph(event, native)).ok())
    events_.push_back(event);
  else
    give_event(device_, event);
} catch (const std::bad_alloc&) {
  // The launch as a whole is waited for.
}

Status GraphWrite::ask(const Deadline* deadline) const noexcept {
  const TraceScope scope(deadline != nullptr ? "wait for a graph's write" : nullptr, 0, nullptr);
  DeviceBackend& backend = *device_->backend;
  const CaptureGuard guard(backend);
  Status status;
  for (EventHandle const event : events_) {
    if (deadline == nullptr)
      status = backend.query_event(event);
    else if (*deadline)
      status = ask_until(**deadline, [&] { return backend.query_event(event); });
    else
      status = backend.synchronize_event(event);
    if (!device_->note(status).ok()) return status;
  }
  return status;
}

Status GraphWrite::order_before(Timeline& waiter) const noexcept {
  if (device_->lost()) return {StatusCode::device_lost};
  const Timeline::NoCapture quiet(waiter);  // a capture that began now would take the wait, and be void
  if (!quiet.status().ok()) return quiet.status();
  for (EventHandle const event : events_) {
    waiter.count_without_position();
    if (const Status status = waiter.device()->backend->wait_event(waiter.native(), event); !status.ok()) return status;
  }
  return {};
}

}  // namespace thole::inline v0_1::detail
