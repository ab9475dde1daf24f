#include "streams/stream_registry.hpp"

#include <algorithm>
#include <array>
#include <new>

namespace thole::detail {
namespace {

// All timelines of the process, and those that serve no stream. Never destroyed: a drop after main may still look at
// one. Those of a lost device are never idle again: what was in flight on it is kept for good.
struct AllTimelines {
  std::mutex mutex;
  Timeline* idle = nullptr;
  Timeline* made = nullptr;
};

AllTimelines& all_timelines() noexcept {
  static auto* const made = new AllTimelines;
  return *made;
}

Timeline* take_idle() {
  AllTimelines& all = all_timelines();
  const std::scoped_lock lock(all.mutex);
  if (all.idle == nullptr) {
    auto* const timeline = new Timeline;
    timeline->next_made = all.made;
    all.made = timeline;
    return timeline;
  }
  Timeline* const timeline = all.idle;
  all.idle = timeline->next_idle;
  return timeline;
}

void give_idle(Timeline* timeline) noexcept {
  AllTimelines& all = all_timelines();
  const std::scoped_lock lock(all.mutex);
  timeline->next_idle = all.idle;
  all.idle = timeline;
}

struct Serving {
  std::mutex mutex;
  std::vector<std::weak_ptr<DeviceCore>> devices;
  std::atomic<bool> any{false};
};

Serving& serving() noexcept {
  static auto* const made = new Serving;
  return *made;
}

}  // namespace

void serve_others(const std::shared_ptr<DeviceCore>& device) noexcept try {
  Serving& list = serving();
  const std::scoped_lock lock(list.mutex);
  if (device->serves_others.load(std::memory_order_relaxed)) return;
  std::erase_if(list.devices, [](const auto& other) { return other.expired(); });
  list.devices.push_back(device);
  device->serves_others.store(true, std::memory_order_relaxed);
  list.any.store(true, std::memory_order_relaxed);
} catch (const std::bad_alloc&) {
  // Not noted: the blocks come back when that device is asked for another reason.
}

std::vector<std::shared_ptr<DeviceCore>> devices_that_serve_others(const DeviceCore& but) {
  Serving& list = serving();
  std::vector<std::shared_ptr<DeviceCore>> devices;
  if (!list.any.load(std::memory_order_relaxed)) return devices;
  const std::scoped_lock lock(list.mutex);
  for (const auto& weak : list.devices)
    if (auto device = weak.lock(); device != nullptr && device.get() != &but) devices.push_back(std::move(device));
  return devices;
}

StreamRegistry::~StreamRegistry() {
  for (Timeline* const timeline : all_) {
    timeline->close();
    timeline->destroy_events(backend_);
    timeline->finish(timeline->issued());  // nothing is pending, or it would keep the device
    give_idle(timeline);
  }
}

Timeline& StreamRegistry::of(const std::shared_ptr<DeviceCore>& device, StreamHandle native, std::uint64_t id,
                             bool foreign) {
  const std::scoped_lock lock(mutex_);
  if (const auto found = open_.find(id); found != open_.end()) return *found->second;
  if (foreign)
    for (Timeline* const other : all_)
      if (other->foreign() && other->native() == native && other->id() != 0) {
        open_.erase(other->id());
        other->close();
      }
  recycle_idle();
  all_.reserve(all_.size() + 1);
  Timeline* const timeline = take_idle();
  open_.emplace(id, timeline);
  all_.push_back(timeline);
  timeline->open(device, native, id, foreign);
  return *timeline;
}

void StreamRegistry::close(Timeline& timeline) noexcept {
  const std::scoped_lock lock(mutex_);
  open_.erase(timeline.id());
  timeline.close();
}

void StreamRegistry::recycle_idle() noexcept {
  std::erase_if(all_, [this](Timeline* timeline) {
    if (timeline->id() != 0 || !timeline->idle()) return false;
    timeline->destroy_events(backend_);
    give_idle(timeline);
    return true;
  });
}

void StreamRegistry::poll(MovingBlocks& out, bool thorough) noexcept {
  // In pieces, so that the lock is not held while a timeline asks the device. One that is recycled meanwhile has
  // nothing to say; one that moves to an earlier place is seen by the next poll.
  std::array<Timeline*, 64> some;
  for (std::size_t from = 0;;) {
    std::size_t count = 0;
    {
      const std::scoped_lock lock(mutex_);
      for (; from < all_.size() && count < some.size(); ++from)
        if (all_[from]->has_work()) some[count++] = all_[from];
    }
    if (count == 0) return;
    for (std::size_t i = 0; i < count; ++i) some[i]->poll(out, thorough);
  }
}

bool StreamRegistry::has_work() const noexcept {
  const std::scoped_lock lock(mutex_);
  return std::ranges::any_of(all_, [](const Timeline* timeline) { return timeline->has_work(); });
}

Timeline* StreamRegistry::next_with_work() noexcept {
  const std::scoped_lock lock(mutex_);
  for (std::size_t i = 0; i < all_.size(); ++i) {
    Timeline* const timeline = all_[++turn_ % all_.size()];
    if (timeline->has_work()) return timeline;
  }
  return nullptr;
}

}  // namespace thole::detail
