#include "streams/stream_registry.hpp"

#include <algorithm>
#include <array>
#include <new>

#include "base/host_function.hpp"
#include "base/thread_number.hpp"
#include "streams/watcher.hpp"

namespace thole::inline v0_1::detail {

StreamRegistry::CapturingKey StreamRegistry::key_of(StreamHandle native, Timeline::Kind kind) noexcept {
  return {native, kind == Timeline::Kind::of_thread ? thread_number() : 0};
}

/// Under the lock, with room made.
std::shared_ptr<Timeline> StreamRegistry::add(const std::shared_ptr<DeviceCore>& device, StreamHandle native,
                                              std::uint64_t id, Timeline::Kind kind) {
  auto timeline = std::make_shared<Timeline>(device, native, id, kind);
  timeline->registry_place = all_.size();
  all_.push_back(timeline.get());
  return timeline;
}

std::shared_ptr<Timeline> StreamRegistry::of_capturing(const std::shared_ptr<DeviceCore>& device, StreamHandle native,
                                                       std::uint64_t capture, Timeline::Kind kind) {
  std::shared_ptr<Timeline> own, known;  // let go of after the lock
  const std::scoped_lock lock(mutex_);
  // A stream of the library's own is known by its handle, which is nobody else's as long as it is open.
  if (const auto found = by_handle_.find(native); found != by_handle_.end())
    if ((own = found->second.lock()) != nullptr && !own->foreign() && own->is_usable()) return own;
  if (all_.size() >= drop_beyond_) drop_ended();
  auto& place = capturing_[key_of(native, kind)];
  known = place.timeline.lock();
  if (known != nullptr && place.capture == capture && known->is_usable()) return known;
  make_room();
  if (known != nullptr) known->close();
  auto timeline = add(device, native, 0, kind);
  place = {capture, timeline};
  return timeline;
}

std::shared_ptr<Timeline> StreamRegistry::known_legacy() noexcept {
  const std::scoped_lock lock(mutex_);
  for (const std::uintptr_t handle : {0U, 1U}) {  // CUDA: 0 and cudaStreamLegacy
    const auto found = by_handle_.find(reinterpret_cast<StreamHandle>(handle));
    if (found == by_handle_.end()) continue;
    if (auto known = found->second.lock(); known != nullptr && known->is_usable()) return known;
  }
  return nullptr;
}

std::shared_ptr<Timeline> StreamRegistry::of(const std::shared_ptr<DeviceCore>& device, StreamHandle native,
                                             std::uint64_t id, Timeline::Kind kind) {
  std::shared_ptr<Timeline> known, before, captured;  // let go of after the lock
  const std::scoped_lock lock(mutex_);
  if (const auto found = capturing_.find(key_of(native, kind)); found != capturing_.end()) {
    captured = found->second.timeline.lock();
    if (captured != nullptr) captured->close();
    capturing_.erase(found);
  }
  if (const auto found = by_id_.find(id); found != by_id_.end()) {
    known = found->second.lock();
    if (known != nullptr && known->is_usable()) return known;
  }
  if (all_.size() >= drop_beyond_) drop_ended();
  make_room();
  auto& with_id = by_id_[id];
  auto* const with_handle = kind == Timeline::Kind::of_thread ? nullptr : &by_handle_[native];
  auto timeline = add(device, native, id, kind);
  with_id = timeline;
  if (with_handle == nullptr) return timeline;
  // CUDA gives no handle to two living streams.
  before = with_handle->lock();
  if (before != nullptr) before->close();
  *with_handle = timeline;
  return timeline;
}

/// All that needs memory comes first: a timeline that goes would destroy the stream.
void StreamRegistry::make_room() {
  all_.reserve(all_.size() + 1 > all_.capacity() ? 2 * all_.size() + 8 : all_.capacity());
}

/// Under the lock. Each that is looked at has been added since the last time, or lives.
void StreamRegistry::drop_ended() noexcept {
  looked_at_ += all_.size();
  std::erase(all_, nullptr);
  ++times_moved_;
  for (std::size_t place = 0; place != all_.size(); ++place) all_[place]->registry_place = place;
  std::erase_if(by_id_, [](const auto& entry) { return entry.second.expired(); });
  std::erase_if(by_handle_, [](const auto& entry) { return entry.second.expired(); });
  std::erase_if(capturing_, [](const auto& entry) { return entry.second.timeline.expired(); });
  drop_beyond_ = std::max(std::size_t{64}, 2 * all_.size());
}

std::size_t StreamRegistry::looked_at() const noexcept {
  const std::scoped_lock lock(mutex_);
  return looked_at_;
}

void StreamRegistry::forget(const Timeline& timeline) noexcept {
  const std::scoped_lock lock(mutex_);
  all_[timeline.registry_place] = nullptr;
}

void StreamRegistry::take_finished(MovingBlocks& out, Wanted wanted) noexcept {
  // In pieces, so that the lock is not held while a timeline asks the device. Where some move to earlier places
  // meanwhile the look begins again.
  std::array<std::shared_ptr<Timeline>, 64> some;
  std::size_t times_moved = 0;
  for (std::size_t from = 0;;) {
    std::size_t count = 0;
    {
      const std::scoped_lock lock(mutex_);
      if (std::exchange(times_moved, times_moved_) != times_moved_) from = 0;
      for (; from < all_.size() && count < some.size(); ++from, ++looked_at_)
        if (Timeline* const timeline = all_[from];
            timeline != nullptr && (timeline->has_work() || (wanted == Wanted::finished && timeline->has_events())))
          if ((some[count] = timeline->weak_from_this().lock()) != nullptr) ++count;
    }
    if (count == 0) return;
    for (std::size_t i = 0; i < count; ++i) {
      const auto timeline = std::exchange(some[i], nullptr);
      if (wanted == Wanted::finished || timeline->is_left_behind()) timeline->take_finished(out, true);
    }
  }
}

bool StreamRegistry::own_stream_captures() noexcept {
  std::size_t times_moved = 0;  // as in take_finished()
  for (std::size_t at = 0;; ++at) {
    std::shared_ptr<Timeline> timeline;
    {
      const std::scoped_lock lock(mutex_);
      if (std::exchange(times_moved, times_moved_) != times_moved_) at = 0;
      while (at < all_.size() && (all_[at] == nullptr || (timeline = all_[at]->weak_from_this().lock()) == nullptr))
        ++at;
      if (timeline == nullptr) return false;
    }
    if (timeline->foreign()) continue;
    const Timeline::Call going_on(*timeline);
    CaptureInfo info;
    if (going_on && timeline->capture_info(&info).ok() && info.state != CaptureInfo::State::none) return true;
  }
}

void StreamRegistry::end(std::shared_ptr<Timeline> timeline) noexcept {
  timeline->drop_handle();
  if (!in_host_function() && timeline->end()) return;
  const std::shared_ptr<DeviceCore> device = timeline->device();
  try {
    const std::scoped_lock lock(mutex_);
    ending_.push_back(std::move(timeline));
  } catch (const std::bad_alloc&) {
    return;  // its native stream ends with the last who knows it
  }
  watch(device);
}

void StreamRegistry::end_waiting() noexcept {
  if (in_host_function()) return;  // no call of the device may be made there
  std::vector<std::shared_ptr<Timeline>> ending;
  {
    const std::scoped_lock lock(mutex_);
    ending.swap(ending_);
    being_ended_ += ending.size();
  }
  if (ending.empty()) return;
  const std::size_t taken = ending.size();
  std::erase_if(ending, [](const auto& timeline) { return timeline->end(); });
  const std::scoped_lock lock(mutex_);
  being_ended_ -= taken;
  if (ending_.empty()) return ending_.swap(ending);
  try {
    ending_.insert(ending_.end(), ending.begin(), ending.end());
  } catch (const std::bad_alloc&) {
    // As in end().
  }
}

bool StreamRegistry::has_loose_ends() const noexcept {
  if (device_blocks_left.load(std::memory_order_acquire) != 0) return true;
  const std::scoped_lock lock(mutex_);
  return !ending_.empty() || being_ended_ != 0;
}

bool StreamRegistry::has_work() const noexcept {
  if (has_loose_ends()) return true;
  const std::scoped_lock lock(mutex_);
  return std::ranges::any_of(all_, [this](const Timeline* timeline) {
    ++looked_at_;
    return timeline != nullptr && timeline->has_work();
  });
}

std::shared_ptr<Timeline> StreamRegistry::next_with_work() noexcept {
  constexpr std::size_t most_looked_at = 32;
  const std::scoped_lock lock(mutex_);
  for (std::size_t i = 0; i < std::min(all_.size(), most_looked_at); ++i) {
    ++looked_at_;
    Timeline* const timeline = all_[++turn_ % all_.size()];
    if (timeline == nullptr || !timeline->has_work()) continue;
    if (auto found = timeline->weak_from_this().lock(); found != nullptr) return found;
  }
  return nullptr;
}

}  // namespace thole::inline v0_1::detail
