#include <thole/event.hpp>

#include <exception>
#include <string>
#include <utility>

#include "api/handle_access.hpp"
#include "base/deadline.hpp"
#include "streams/notifier.hpp"

namespace thole::inline v0_1 {

using detail::Status;
using detail::StatusCode;

namespace {

tl::unexpected<Error> moved_from(const char* call) {
  return tl::unexpected(
      Error::make(Errc::moved_from, [&] { return std::string(call) + ": the event has been moved from"; }));
}

tl::unexpected<Error> failed(detail::DeviceCore& device, Status status, const char* call, const char* what) {
  if (device.lost()) return tl::unexpected(device.lost_error(call));
  return tl::unexpected(device.error(status, call, what));
}

/// What the status of asking or waiting for an event means.
Result<void> result_of(detail::DeviceCore& device, Status status, const char* call) {
  if (status.ok()) return {};
  return failed(device, status, call, "waiting for the event");
}

Result<void> wait(detail::Timeline* timeline, detail::Ticket* ticket, const detail::Deadline& deadline,
                  const char* call) noexcept {
  if (ticket == nullptr) return moved_from(call);
  if (timeline->device()->lost()) return tl::unexpected(timeline->device()->lost_error(call));
  if (!deadline && detail::in_host_function() && !timeline->query(ticket).ok())
    return tl::unexpected(detail::host_function_error(call));
  const Status status = timeline->wait(ticket, deadline);
  if (status.code == StatusCode::not_ready)
    return tl::unexpected(
        Error::make(Errc::timed_out, [&] { return std::string(call) + ": the event is not ready in the given time"; }));
  return result_of(*timeline->device(), status, call);
}

}  // namespace

Event::Event(Event&& other) noexcept
    : timeline_(std::move(other.timeline_)), ticket_(std::exchange(other.ticket_, nullptr)) {}

Event& Event::operator=(Event&& other) noexcept {
  Event moved(std::move(other));
  std::swap(timeline_, moved.timeline_);
  std::swap(ticket_, moved.ticket_);
  return *this;
}

Event::~Event() {
  if (ticket_ != nullptr && !timeline_->device()->of_another_process()) timeline_->release(ticket_);
}

Device Event::device() const {
  if (ticket_ == nullptr) throw moved_from("Event::device").value();
  return detail::HandleAccess::device(timeline_->device());
}

bool Event::ready() const { return detail::unwrap(try_ready()); }

Result<bool> Event::try_ready() const noexcept {
  constexpr const char* call = "Event::ready";
  if (ticket_ == nullptr) return moved_from(call);
  if (timeline_->device()->lost()) return tl::unexpected(timeline_->device()->lost_error(call));
  const Status status = timeline_->query(ticket_);
  if (status.ok()) return true;
  if (status.code == StatusCode::not_ready) return false;
  return failed(*timeline_->device(), status, call, "asking for the event");
}

void Event::synchronize() const { detail::unwrap(wait(timeline_.get(), ticket_, {}, "Event::synchronize")); }

Result<void> Event::wait_for(std::chrono::nanoseconds timeout) const noexcept {
  return wait(timeline_.get(), ticket_, detail::end_of_wait(timeout), "Event::wait_for");
}

Result<void> Event::call_when_ready(std::shared_ptr<void> f, void (*run)(void*, Result<void>)) const noexcept try {
  constexpr const char* call = "Event::on_ready";
  if (ticket_ == nullptr) return moved_from(call);
  const auto device = timeline_->device();
  if (device->of_another_process()) return tl::unexpected(device->lost_error(call));
  detail::notify(timeline_, ticket_,
                 [device, f = std::move(f), run](Status status) { run(f.get(), result_of(*device, status, call)); });
  return {};
} catch (const std::exception&) {  // no memory, or no thread
  return tl::unexpected(detail::no_system_memory("Event::on_ready"));
}

std::chrono::nanoseconds Event::elapsed_since(const Event& start) const {
  return detail::unwrap(try_elapsed_since(start));
}

Result<std::chrono::nanoseconds> Event::try_elapsed_since(const Event& start) const noexcept {
  constexpr const char* call = "Event::elapsed_since";
  if (ticket_ == nullptr || start.ticket_ == nullptr) return moved_from(call);
  detail::DeviceCore& device = *timeline_->device();
  if (device.lost()) return tl::unexpected(device.lost_error(call));
  if (start.timeline_->device().get() != &device)
    return tl::unexpected(
        Error::make(Errc::wrong_device, [&] { return std::string(call) + ": the events are of two devices"; }));
  if (ticket_->capture != 0 || start.ticket_->capture != 0)
    return tl::unexpected(Error::make(Errc::capturing, [&] {
      return std::string(call) + ": an event was recorded in a graph capture, where it is a part of the graph";
    }));
  if (!ticket_->timed || !start.ticket_->timed)
    return tl::unexpected(Error::make(Errc::invalid_argument, [&] {
      return std::string(call) + ": an event was recorded without EventOptions{.timing = true}";
    }));
  for (const Event* const event : {&start, this}) {
    auto ready = event->try_ready();
    if (!ready) return tl::unexpected(std::move(ready.error()));
    if (!*ready)
      return tl::unexpected(Error::make(Errc::in_flight, [&] { return std::string(call) + ": an event is not done"; }));
  }
  const detail::CaptureGuard guard(*device.backend);
  std::chrono::nanoseconds time{0};
  const Status status = device.note(device.backend->elapsed(start.ticket_->event, ticket_->event, &time));
  if (!status.ok()) return failed(device, status, call, "asking for the time between two events");
  return time;
}

}  // namespace thole::inline v0_1
