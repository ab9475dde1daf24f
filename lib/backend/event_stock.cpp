#include "backend/event_stock.hpp"

#include <new>

#include "base/host_function.hpp"

namespace thole::inline v0_1::detail {

EventStock::~EventStock() {
  destroy_waiting();
  for (EventHandle event : events_) (void)discard(event);
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
  return backend_.create_event(event, {.blocking = blocking()});
}

void EventStock::give(EventHandle event) noexcept {
  try {
    const std::scoped_lock lock(mutex_);
    events_.push_back(event);
  } catch (const std::bad_alloc&) {
    (void)discard(event);
  }
}

bool EventStock::discard(EventHandle event) noexcept {
  if (!in_host_function()) {
    (void)backend_.destroy_event(event);
    return true;
  }
  try {
    const std::scoped_lock lock(mutex_);
    waiting_.push_back(event);
  } catch (const std::bad_alloc&) {
    return true;  // it stays
  }
  return false;
}

void EventStock::destroy_waiting() noexcept {
  std::vector<EventHandle> waiting;
  {
    const std::scoped_lock lock(mutex_);
    waiting.swap(waiting_);
  }
  for (EventHandle event : waiting) (void)backend_.destroy_event(event);
}

bool EventStock::has_waiting() const noexcept {
  const std::scoped_lock lock(mutex_);
  return !waiting_.empty();
}

void EventStock::refill() noexcept {
  for (;;) {
    {
      const std::scoped_lock lock(mutex_);
      if (events_.size() >= full) return;
    }
    EventHandle event = nullptr;
    if (!backend_.create_event(&event, {.blocking = blocking()}).ok()) return;
    give(event);
  }
}

void EventStock::make_blocking() noexcept {
  std::vector<EventHandle> spinning;
  {
    const std::scoped_lock lock(mutex_);
    if (blocking_.exchange(true, std::memory_order_relaxed)) return;
    spinning.swap(events_);
  }
  for (EventHandle event : spinning) (void)discard(event);
  refill();
}

bool EventStock::wants_refill() const noexcept {
  if (refilling_.load(std::memory_order_relaxed)) return false;
  const std::scoped_lock lock(mutex_);
  return events_.size() < low;
}

}  // namespace thole::inline v0_1::detail
