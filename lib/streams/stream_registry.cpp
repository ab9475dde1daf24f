#include "streams/stream_registry.hpp"

#include <algorithm>
#include <array>
#include <new>

#include "streams/host_functions.hpp"
#include "streams/watcher.hpp"

namespace thole::detail {

std::shared_ptr<Timeline> StreamRegistry::of(const std::shared_ptr<DeviceCore>& device, StreamHandle native,
                                             std::uint64_t id, Timeline::Kind kind) {
  const std::scoped_lock lock(mutex_);
  if (const auto found = by_id_.find(id); found != by_id_.end())
    if (auto timeline = found->second.lock(); timeline != nullptr && timeline->is_usable()) return timeline;
  if (all_.size() >= drop_beyond_) {  // each that is looked at has been added since the last time, or lives
    std::erase_if(all_, [](const auto& timeline) { return timeline.expired(); });
    std::erase_if(by_id_, [](const auto& entry) { return entry.second.expired(); });
    std::erase_if(foreign_, [](const auto& entry) { return entry.second.expired(); });
    drop_beyond_ = std::max(std::size_t{64}, 2 * all_.size());
  }
  auto timeline = std::make_shared<Timeline>(device, native, id, kind);
  all_.reserve(all_.size() + 1 > all_.capacity() ? 2 * all_.size() + 8 : all_.capacity());
  if (kind == Timeline::Kind::foreign) {
    // CUDA gives no handle to two living streams.
    auto& with_handle = foreign_[native];
    if (const auto before = with_handle.lock(); before != nullptr) before->close();
    with_handle = timeline;
  }
  by_id_[id] = timeline;
  all_.push_back(timeline);
  return timeline;
}

void StreamRegistry::take_finished(MovingBlocks& out, bool thorough) noexcept {
  // In pieces, so that the lock is not held while a timeline asks the device. One that moves to an earlier place
  // meanwhile is looked at the next time.
  std::array<std::shared_ptr<Timeline>, 64> some;
  for (std::size_t from = 0;;) {
    std::size_t count = 0;
    {
      const std::scoped_lock lock(mutex_);
      for (; from < all_.size() && count < some.size(); ++from)
        if (auto timeline = all_[from].lock();
            timeline != nullptr && (timeline->has_work() || (thorough && timeline->has_events())))
          some[count++] = std::move(timeline);
    }
    if (count == 0) return;
    for (std::size_t i = 0; i < count; ++i) std::exchange(some[i], nullptr)->take_finished(out, thorough);
  }
}

bool StreamRegistry::own_stream_captures() noexcept {
  for (std::size_t at = 0;; ++at) {
    std::shared_ptr<Timeline> timeline;
    {
      const std::scoped_lock lock(mutex_);
      while (at < all_.size() && (timeline = all_[at].lock()) == nullptr) ++at;
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
  if (has_loose_ends() || graphs.has_work()) return true;
  const std::scoped_lock lock(mutex_);
  return std::ranges::any_of(all_, [](const auto& weak) {
    const auto timeline = weak.lock();
    return timeline != nullptr && timeline->has_work();
  });
}

std::shared_ptr<Timeline> StreamRegistry::next_with_work() noexcept {
  constexpr std::size_t most_looked_at = 32;
  const std::scoped_lock lock(mutex_);
  for (std::size_t i = 0; i < std::min(all_.size(), most_looked_at); ++i)
    if (auto timeline = all_[++turn_ % all_.size()].lock(); timeline != nullptr && timeline->has_work())
      return timeline;
  return nullptr;
}

}  // namespace thole::detail
