#pragma once

#include <chrono>
#include <memory>

#include <thole/device.hpp>
#include <thole/error.hpp>
#include <thole/export.hpp>

namespace thole {

namespace detail {
struct Ticket;
class Timeline;
}  // namespace detail

/// A recorded point in a stream, from `StreamRef::record()`; move-only. Its event goes back to the device's pool when
/// it is destroyed, at once and without a call.
///
/// Thread safety: const members of one object may be called by many threads at once; others need exclusive access.
class [[nodiscard]] THOLE_EXPORT Event {
 public:
  Event(Event&& other) noexcept;
  Event& operator=(Event&& other) noexcept;
  ~Event();

  Device device() const;
  /// Whether all work before the point is done. Never waits and never disturbs a capture. Throws `Error` on a lost
  /// device.
  [[nodiscard]] bool ready() const;
  [[nodiscard]] Result<bool> try_ready() const noexcept;
  /// Blocks until it is. Throws `Error`: `device_lost`, `moved_from`.
  void synchronize() const;
  /// As `synchronize()`, at most so long: `Errc::timed_out`. Returns the error instead of throwing it.
  [[nodiscard]] Result<void> wait_for(std::chrono::nanoseconds timeout) const noexcept;
  /// The device's time from `start` to this point; both were recorded with `{.timing = true}` and are done. On a GPU to
  /// about half a microsecond, on a simulated device by its own clock. Never waits. Throws `Error`: `in_flight` where
  /// one is not done, `invalid_argument` where one does not measure time, `wrong_device`, `device_lost`, `moved_from`.
  std::chrono::nanoseconds elapsed_since(const Event& start) const;
  [[nodiscard]] Result<std::chrono::nanoseconds> try_elapsed_since(const Event& start) const noexcept;

 private:
  friend class StreamRef;
  friend struct detail::HandleAccess;
  Event() = default;
  std::shared_ptr<detail::Timeline> timeline_;
  detail::Ticket* ticket_ = nullptr;
};

}  // namespace thole
