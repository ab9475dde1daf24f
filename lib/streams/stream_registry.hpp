#pragma once

// The streams of one device that thole has seen and that somebody still knows: by number, to find the timeline that all
// views of a stream share, and as a list, to look for blocks that wait. The registry keeps none of them alive: handles,
// memory in use and events do.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "streams/device_block_queue.hpp"
#include "streams/graph_uses.hpp"
#include "streams/timeline.hpp"

namespace thole::inline v0_1::detail {

/// Thread safety: any thread, at any time.
class StreamRegistry {
 public:
  /// The timeline ends: it is looked at no more.
  void forget(const Timeline& timeline) noexcept;
  /// The timeline of the stream with this number, made on first sight. A foreign stream with the same native handle
  /// that was seen before is gone: its timeline is closed. Throws std::bad_alloc.
  std::shared_ptr<Timeline> of(const std::shared_ptr<DeviceCore>& device, StreamHandle native, std::uint64_t id,
                               Timeline::Kind kind);

  /// The same for a stream that captures, of which no number can be asked: one timeline for each capture, whose id() is
  /// 0. It is closed when the stream is next seen outside of a capture, since nobody knows whether that is the same
  /// one.
  std::shared_ptr<Timeline> of_capturing(const std::shared_ptr<DeviceCore>& device, StreamHandle native,
                                         std::uint64_t capture, Timeline::Kind kind);

  /// The legacy default stream's, if it has been seen; nullptr else. Its handles are never another stream's.
  std::shared_ptr<Timeline> known_legacy() noexcept;

  /// Looks for blocks in every timeline, thoroughly; see Timeline::take_finished.
  void take_finished(MovingBlocks& out, Wanted wanted) noexcept;
  /// A timeline in which blocks wait, another one each time, if one of the next few has any; else nullptr.
  std::shared_ptr<Timeline> next_with_work() noexcept;
  /// The stream's handle is gone: it ends now, or when its last event can be recorded, which end_waiting() tries again.
  void end(std::shared_ptr<Timeline> timeline) noexcept;
  void end_waiting() noexcept;

  /// Whether a stream of the library's own captures. Of foreign ones nobody knows whether they still live.
  bool own_stream_captures() noexcept;

  /// Whether any block waits, of pinned memory or of the device's, or a stream that cannot end yet; those count, too,
  /// that another thread is just looking at.
  bool has_work() const noexcept;
  /// The same of device memory and of streams that cannot end yet alone: these hold the device, and go with one that is
  /// lost, too.
  bool has_loose_ends() const noexcept;

  /// How many streams have been looked at in all loops over them: for tests that count.
  std::size_t looked_at() const noexcept;

  /// Device memory that cannot be freed yet, and where it is freed then (device_block.cpp); and how much of it there
  /// is, in somebody's hands or not: counted before it is put there. Release and acquire make a pair.
  DeviceBlockQueue device_blocks;
  std::atomic<std::size_t> device_blocks_left{0};
  FreeingStream freeing;
  GraphTable graphs;

 private:
  /// A timeline leaves before it ends, so that those in the list may be looked at while the lock is held. One that is
  /// taken from there is let go of without the lock: that may end it, and then runs what ends with it.
  using List = std::vector<Timeline*>;

  /// Seen while it captured. The streams of threads have one handle, so that the thread's number is a part of the key.
  struct Capturing {
    std::uint64_t capture;
    std::weak_ptr<Timeline> timeline;
  };
  using CapturingKey = std::pair<StreamHandle, std::uint64_t>;
  static CapturingKey key_of(StreamHandle native, Timeline::Kind kind) noexcept;

  std::shared_ptr<Timeline> add(const std::shared_ptr<DeviceCore>& device, StreamHandle native, std::uint64_t id,
                                Timeline::Kind kind);
  void make_room();
  void drop_ended() noexcept;

  mutable std::mutex mutex_;
  std::unordered_map<std::uint64_t, std::weak_ptr<Timeline>> by_id_;
  std::unordered_map<StreamHandle, std::weak_ptr<Timeline>> by_handle_;  // but those of threads
  std::map<CapturingKey, Capturing> capturing_;
  List all_;  // nullptr: it has ended
  std::vector<std::shared_ptr<Timeline>> ending_;
  std::size_t being_ended_ = 0;   // taken from there by end_waiting() calls that go on
  std::size_t turn_ = 0;          // of next_with_work()
  std::size_t times_moved_ = 0;   // of those in all_, to earlier places
  std::size_t drop_beyond_ = 64;  // so many are looked through for those that are gone
  mutable std::size_t looked_at_ = 0;
};

}  // namespace thole::inline v0_1::detail
