#pragma once

// All timelines of one device, by stream. Timeline objects are type-stable: a block may name one that has since gone to
// another stream or device; its positions then read as complete.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "streams/timeline.hpp"

namespace thole::detail {

/// Notes that blocks of other devices' arenas are used on this device.
void serve_others(const std::shared_ptr<DeviceCore>& device) noexcept;
/// The devices of which that was said, but `but`; those that live.
std::vector<std::shared_ptr<DeviceCore>> devices_that_serve_others(const DeviceCore& but);

class StreamRegistry {
 public:
  explicit StreamRegistry(DeviceBackend& backend) noexcept : backend_(backend) {}
  ~StreamRegistry();
  StreamRegistry(const StreamRegistry&) = delete;
  StreamRegistry& operator=(const StreamRegistry&) = delete;

  /// The timeline of the stream with this number, made on first sight. A foreign stream with the same native handle
  /// that was seen before is gone: its timeline is closed. Throws std::bad_alloc.
  Timeline& of(const std::shared_ptr<DeviceCore>& device, StreamHandle native, std::uint64_t id, bool foreign);
  /// A stream of thole's own ends.
  void close(Timeline& timeline) noexcept;

  /// Polls every timeline; see Timeline::poll.
  void poll(MovingBlocks& out, bool thorough) noexcept;
  /// One that has blocks or tickets waiting, another one each time; nullptr if none has.
  Timeline* next_with_work() noexcept;
  /// Whether any block or ticket waits.
  bool has_work() const noexcept;

 private:
  void recycle_idle() noexcept;

  DeviceBackend& backend_;
  mutable std::mutex mutex_;
  std::unordered_map<std::uint64_t, Timeline*> open_;  // by stream number
  std::size_t turn_ = 0;                               // next_with_work
  std::vector<Timeline*> all_;                         // open ones, and closed ones that are not idle yet
};

}  // namespace thole::detail
