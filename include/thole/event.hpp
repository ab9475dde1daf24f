#pragma once

#include <functional>
#include <type_traits>
#include <utility>

#include <thole/detail/kept.hpp>
#include <thole/detail/std_parts.hpp>
#include <thole/device.hpp>
#include <thole/error.hpp>
#include <thole/export.hpp>

namespace thole::inline v0_1 {

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

  /// Of the stream that it was recorded in.
  Device device() const;
  /// Whether all work before the point is done. Never waits and never disturbs a capture. Throws `Error` on a lost
  /// device.
  [[nodiscard]] bool ready() const;
  /// As `ready`, without throwing.
  [[nodiscard]] Result<bool> try_ready() const noexcept;
  /// Blocks until it is. Throws `Error`: `device_lost`, `moved_from`.
  void synchronize() const;
  /// As `synchronize()`, at most so long: `Errc::timed_out`. Returns the error instead of throwing it.
  [[nodiscard]] Result<void> wait_for(std::chrono::nanoseconds timeout) const noexcept;
  /// Runs `f(Result<void>)` once, on a thread of thole's, when the point is done, also where it is already; the error
  /// is what `synchronize()` would throw, as where the device is lost. There thole and CUDA may be called; but the
  /// functions of all events run on that one thread, so that one which blocks holds up the others, and one that throws
  /// ends the process. The event may be destroyed meanwhile. What is not done when the process ends is not told. Costs
  /// some 100 ns; the thread asks for the earliest event of each stream, every 20 us at first and every millisecond
  /// after a while. Throws `Error`: `moved_from`, `out_of_memory`.
  template <class F>
  void on_ready(F&& f) const {
    detail::unwrap(try_on_ready(std::forward<F>(f)));
  }
  /// As `on_ready`, without throwing.
  template <class F>
  [[nodiscard]] Result<void> try_on_ready(F&& f) const {
    auto shared = detail::try_make_shared<std::decay_t<F>>(std::forward<F>(f));
    if (shared == nullptr) return tl::unexpected(detail::no_system_memory("Event::on_ready"));
    return call_when_ready(std::move(shared), [](void* kept, Result<void> result) {
      (*static_cast<std::decay_t<F>*>(kept))(std::move(result));
    });
  }
  /// The device's time from `start` to this point; both were recorded with `{.timing = true}` and are done. On a GPU to
  /// about half a microsecond, on a simulated device by its own clock. Never waits. Throws `Error`: `in_flight` where
  /// one is not done, `invalid_argument` where one does not measure time, `capturing` for an event of a capture,
  /// `wrong_device`, `device_lost`, `moved_from`.
  std::chrono::nanoseconds elapsed_since(const Event& start) const;
  /// As `elapsed_since`, without throwing.
  [[nodiscard]] Result<std::chrono::nanoseconds> try_elapsed_since(const Event& start) const noexcept;

 private:
  friend class StreamRef;
  friend struct detail::HandleAccess;
  Event() = default;
  Result<void> call_when_ready(std::shared_ptr<void> f, void (*run)(void*, Result<void>)) const noexcept;
  std::shared_ptr<detail::Timeline> timeline_;
  detail::Ticket* ticket_ = nullptr;
};

}  // namespace thole::inline v0_1
