#pragma once

// A device's events that nobody uses at the moment. Creating one can block behind a stuck stream (CUDA holds a lock
// while a queue is full), so a stock is made before it is needed.

#include <atomic>
#include <cstddef>
#include <mutex>
#include <vector>

#include "backend/leftovers.hpp"

namespace thole::inline v0_1::detail {

/// Thread safety: any thread, at any time.
class EventStock {
 public:
  /// As many are made ahead, of those that measure no time: a stuck stream whose uses have an event each has filled its
  /// own queue, of about 1,000 places, before it has them all.
  static constexpr std::size_t full = 512;
  static constexpr std::size_t low = 384;    ///< with fewer, more should be made
  static constexpr std::size_t most = 2048;  ///< with more, of both kinds together, some should go

  EventStock(DeviceBackend& backend, Leftovers& leftovers) noexcept : backend_(backend), leftovers_(leftovers) {}
  /// Destroys the events; none is out.
  ~EventStock();
  EventStock(const EventStock&) = delete;
  EventStock& operator=(const EventStock&) = delete;

  /// Waiting for events that are made from now on blocks instead of spinning; the stock is made anew.
  void make_blocking() noexcept;
  bool blocking() const noexcept { return blocking_.load(std::memory_order_relaxed); }

  /// An event from the stock, or a new one; `timed`: that measures time. Sets `*is_low`, if that is given, where more
  /// should be made and nobody does. Fails as DeviceBackend::create_event.
  Status take(EventHandle* event, bool timed = false, bool* is_low = nullptr) noexcept;
  /// One that the stock can spare, or a new one. Fails as DeviceBackend::create_event.
  Status take_spare(EventHandle* event) noexcept;
  /// The event is not recorded again but by the next who takes it. True: there are too many, and trim() should be
  /// called by who may block.
  bool give(EventHandle event, bool timed = false) noexcept;
  /// Makes events until the stock is full. May block as long as a stream is stuck: where a device is made, and on a
  /// thread that has nothing else to do.
  void refill() noexcept;
  bool is_low() const noexcept;
  /// Destroys what is above half of `most`, where there are more than that: programs that have as many in flight again
  /// and again make few anew. May block as refill().
  void trim() noexcept;
  bool is_high() const noexcept;

 private:
  Status make(EventHandle* event, bool timed) noexcept { return backend_.create_event(event, flags(timed)); }
  EventFlags flags(bool timed) const noexcept { return {.timing = timed, .blocking = blocking()}; }

  DeviceBackend& backend_;
  Leftovers& leftovers_;
  mutable std::mutex mutex_;
  std::vector<EventHandle> events_;
  std::vector<EventHandle> timed_;
  std::atomic<bool> blocking_{false};  // relaxed: an option, set before the device is used
};

}  // namespace thole::inline v0_1::detail
