#pragma once

// When a launch of a graph has written one buffer: events that its launches record behind each write, so that a reader
// waits for the write and not for the launch.
//
// Every launch records the same events again. An event that is done was recorded by this launch or by a later one,
// since it is only asked after the launch; and a later one comes after this one on the device, because both write the
// buffer. So an answer may come late, and never early.

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "backend/device_core.hpp"
#include "base/deadline.hpp"

namespace thole::inline v0_1::detail {

class Timeline;

/// One for each buffer that a graph writes. Thread safety: as each call says.
class GraphWrite {
 public:
  explicit GraphWrite(std::shared_ptr<DeviceCore> device) noexcept : device_(std::move(device)) {}
  /// Nothing that was launched goes on: the events may serve others.
  ~GraphWrite();
  GraphWrite(const GraphWrite&) = delete;
  GraphWrite& operator=(const GraphWrite&) = delete;

  // ---- While it is captured. add() by one thread at a time.

  /// A write follows in the graph; until add() has given it an event the launch as a whole must be waited for.
  void expect() noexcept { expected_.fetch_add(1, std::memory_order_relaxed); }
  /// Behind the write, in the same stream.
  void add(StreamHandle native) noexcept;

  // ---- Afterwards.

  /// Whether each write has its event. Any thread.
  bool complete() const noexcept { return expected_.load(std::memory_order_relaxed) == events_.size(); }
  /// ok or not_ready, or else no answer; waits where there is a deadline, for ever where that is empty. Any thread.
  Status ask(const Deadline* deadline) const noexcept;
  /// The stream goes on only behind the writes; else no answer. Any thread.
  Status order_before(Timeline& waiter) const noexcept;

  /// The latest launch: where it was put, and whether its writes are known to be done. Under the lock of the buffer's
  /// uses.
  std::uint64_t stream = 0;
  std::uint64_t position = 0;
  bool done = false;

 private:
  const std::shared_ptr<DeviceCore> device_;
  std::atomic<unsigned> expected_{0};  // relaxed: the capture's end orders it
  std::vector<EventHandle> events_;
};

}  // namespace thole::inline v0_1::detail
