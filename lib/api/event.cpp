#include <thole/event.hpp>

#include <string>
#include <utility>

#include "api/handle_access.hpp"

namespace thole {

using detail::Status;
using detail::StatusCode;

namespace {

void check(const detail::Ticket* ticket, const char* call) {
  if (ticket == nullptr) throw Error(Errc::moved_from, std::string(call) + ": the event has been moved from");
}

}  // namespace

Event::Event(Event&& other) noexcept
    : device_(std::move(other.device_)), ticket_(std::exchange(other.ticket_, nullptr)) {}

Event& Event::operator=(Event&& other) noexcept {
  Event moved(std::move(other));
  std::swap(device_, moved.device_);
  std::swap(ticket_, moved.ticket_);
  return *this;
}

Event::~Event() {
  if (ticket_ != nullptr) ticket_->timeline->release_ticket(ticket_);
}

Device Event::device() const {
  check(ticket_, "Event::device");
  return detail::HandleAccess::device(device_);
}

bool Event::ready() const {
  check(ticket_, "Event::ready");
  const Status status = ticket_->timeline->query(ticket_->position);
  if (status.ok()) return true;
  if (status.code == StatusCode::not_ready) return false;
  if (status.code == StatusCode::device_lost) throw device_->lost_error("Event::ready");
  throw device_->error(status, "Event::ready", "asking for the event");
}

void Event::synchronize() const {
  check(ticket_, "Event::synchronize");
  const Status status = ticket_->timeline->wait(ticket_->position);
  if (status.ok()) return;
  if (status.code == StatusCode::device_lost) throw device_->lost_error("Event::synchronize");
  throw device_->error(status, "Event::synchronize", "waiting for the event");
}

}  // namespace thole
