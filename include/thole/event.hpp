#pragma once

#include <memory>

#include <thole/device.hpp>
#include <thole/error.hpp>
#include <thole/export.hpp>

namespace thole {

namespace detail {
struct Ticket;
}

/// A recorded point in a stream, from `StreamRef::record()`; move-only. Its event goes back to the device's pool when
/// it is destroyed, at once and without a call. Safe to ask from any thread.
class THOLE_EXPORT Event {
 public:
  Event(Event&& other) noexcept;
  Event& operator=(Event&& other) noexcept;
  ~Event();

  Device device() const;
  /// Whether all work before the point is done. Never waits and never disturbs a capture. Throws `Error` on a lost
  /// device.
  bool ready() const;
  /// Blocks until it is. Throws `Error`: `device_lost`, `moved_from`.
  void synchronize() const;

 private:
  friend class StreamRef;
  friend struct detail::HandleAccess;
  Event() = default;
  std::shared_ptr<detail::DeviceCore> device_;
  detail::Ticket* ticket_ = nullptr;
};

}  // namespace thole
