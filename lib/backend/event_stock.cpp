#include "backend/event_stock.hpp"

#include <new>
#include <utility>

namespace thole::inline v0_1::detail {

EventStock::~EventStock() {
  for (auto* const stock : {&events_, &timed_})
    for (EventHandle event : *stock) (void)backend_.destroy_event(event);
}

Status EventStock::take(EventHandle* event, bool timed, bool* is_low) noexcept {
  {
    const std::scoped_lock lock(mutex_);
    auto& stock = timed ? timed_ : events_;
    if (is_low != nullptr) *is_low = !timed && stock.size() <= low;
    if (!stock.empty()) {
      *event = stock.back();
      stock.pop_back();
      return {};
    }
  }
  return make(event, timed);
}

Status EventStock::take_spare(EventHandle* event) noexcept {
  {
    const std::scoped_lock lock(mutex_);
    if (events_.size() > full) {
      *event = events_.back();
      events_.pop_back();
      return {};
    }
  }
  return make(event, false);
}

bool EventStock::give(EventHandle event, bool timed) noexcept {
  try {
    const std::scoped_lock lock(mutex_);
    (timed ? timed_ : events_).push_back(event);
    return events_.size() + timed_.size() > most;
  } catch (const std::bad_alloc&) {
    leftovers_.add(Leftovers::Kind::event, event);
    return true;
  }
}

void EventStock::refill() noexcept {
  for (;;) {
    {
      const std::scoped_lock lock(mutex_);
      if (events_.size() >= full) return;
    }
    EventHandle event = nullptr;
    if (!make(&event, false).ok()) return;
    (void)give(event);
  }
}

void EventStock::make_blocking() noexcept {
  std::vector<EventHandle> spinning, timed;
  {
    const std::scoped_lock lock(mutex_);
    if (blocking_.exchange(true, std::memory_order_relaxed)) return;
    spinning.swap(events_);
    timed.swap(timed_);
  }
  for (const auto* const stock : {&spinning, &timed})
    for (EventHandle event : *stock) (void)backend_.destroy_event(event);
  refill();
}

void EventStock::trim() noexcept {
  if (!is_high()) return;
  for (;;) {
    EventHandle event = nullptr;
    {
      const std::scoped_lock lock(mutex_);
      if (events_.size() + timed_.size() <= most / 2) break;
      auto& stock = events_.size() >= timed_.size() ? events_ : timed_;
      event = stock.back();
      stock.pop_back();
    }
    (void)leftovers_.destroy({Leftovers::Kind::event, event});
  }
}

bool EventStock::is_low() const noexcept {
  const std::scoped_lock lock(mutex_);
  return events_.size() < low;
}

bool EventStock::is_high() const noexcept {
  const std::scoped_lock lock(mutex_);
  return events_.size() + timed_.size() > most;
}

}  // namespace thole::inline v0_1::detail
