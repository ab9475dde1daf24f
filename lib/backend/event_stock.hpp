#pragma once

// A device's events that nobody uses at the moment. Creating one can block behind a stuck stream (CUDA holds a lock
// while a queue is full), so a stock is made before it is needed.

#include <atomic>
#include <cstddef>
#include <mutex>
#include <vector>

#include "backend/backend.hpp"

namespace thole::inline v0_1::detail {

/// Thread safety: any thread, at any time.
class EventStock {
 public:
  static constexpr std::size_t full = 128;  ///< as many as are made ahead
  static constexpr std::size_t low = 32;    ///< with fewer, more should be made

  explicit EventStock(DeviceBackend& backend) noexcept : backend_(backend) {}
  /// Destroys the events; none is out.
  ~EventStock();
  EventStock(const EventStock&) = delete;
  EventStock& operator=(const EventStock&) = delete;

  /// Waiting for events that are made from now on blocks instead of spinning; the stock is made anew.
  void make_blocking() noexcept;
  bool blocking() const noexcept { return blocking_.load(std::memory_order_relaxed); }

  /// An event from the stock, or a new one. Fails as DeviceBackend::create_event.
  Status take(EventHandle* event) noexcept;
  /// The event is not recorded again but by the next who takes it.
  void give(EventHandle event) noexcept;
  /// The event is of no use any more. Returns false where it could not be destroyed here, in a host function: then
  /// somebody must call destroy_waiting().
  bool discard(EventHandle event) noexcept;
  void destroy_waiting() noexcept;
  bool has_waiting() const noexcept;
  /// Makes events until the stock is full. May block as long as a stream is stuck: where a device is made, and on a
  /// thread that has nothing else to do.
  void refill() noexcept;
  /// Whether somebody should call refill(), and nobody does.
  bool wants_refill() const noexcept;
  /// True: the caller is the one who calls refill(), and end_refill() then, or where that cannot be done.
  bool begin_refill() noexcept { return !refilling_.exchange(true, std::memory_order_relaxed); }
  void end_refill() noexcept { refilling_.store(false, std::memory_order_relaxed); }

 private:
  DeviceBackend& backend_;
  mutable std::mutex mutex_;
  std::vector<EventHandle> events_;
  std::vector<EventHandle> waiting_;    // to be destroyed
  std::atomic<bool> refilling_{false};  // relaxed: the events are under the mutex
  std::atomic<bool> blocking_{false};   // relaxed: an option, set before the device is used
};

}  // namespace thole::inline v0_1::detail
