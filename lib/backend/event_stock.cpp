#include "backend/event_stock.hpp"

#include <new>

namespace thole::detail {

EventStock::~EventStock() {
  for (EventHandle event : events_) discard(event);
}

Status EventStock::take(EventHandle* event) noexcept {
  {
    const std::scoped_lock lock(mutex_);
    if (!events_.empty()) {
      *event = events_.back();
      events_.pop_back();
      return {};
    }
  }
  return backend_.create_event(event);
}

void EventStock::give(EventHandle event) noexcept {
  try {
    const std::scoped_lock lock(mutex_);
    events_.push_back(event);
  } catch (const std::bad_alloc&) {
    discard(event);
  }
}

void EventStock::discard(EventHandle event) noexcept { (void)backend_.destroy_event(event); }

void EventStock::refill() noexcept {
  for (;;) {
    {
      const std::scoped_lock lock(mutex_);
      if (events_.size() >= full) return;
    }
    EventHandle event = nullptr;
    if (!backend_.create_event(&event).ok()) return;
    give(event);
  }
}

bool EventStock::is_low() const noexcept {
  const std::scoped_lock lock(mutex_);
  return events_.size() < low;
}

}  // namespace thole::detail
