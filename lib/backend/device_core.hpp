#pragma once

// What all handles of one device share: the backend, its streams, whether it is lost, and the first error that nobody
// could be told.

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <string>
#include <string_view>

#include <thole/error.hpp>

#include "backend/backend.hpp"
#include "backend/capture_guard.hpp"
#include "backend/event_stock.hpp"
#include "base/fork.hpp"

namespace thole::inline v0_1::detail {

class StreamRegistry;

/// What users are told for a backend's Status that is not ok.
Errc errc_of(StatusCode code) noexcept;

/// Which blocks somebody who collects wants: all that are finished, or those alone that nobody else has taken since the
/// look before. A thread that works takes its blocks back itself, where they are still in its cache.
enum class Wanted { finished, left_behind };

struct DeviceCore {
  explicit DeviceCore(std::shared_ptr<DeviceBackend> made);
  ~DeviceCore();
  DeviceCore(const DeviceCore&) = delete;
  DeviceCore& operator=(const DeviceCore&) = delete;

  const std::shared_ptr<DeviceBackend> backend;
  /// What is to be destroyed by a thread that may block.
  Leftovers leftovers{*backend};
  /// Events of the device's that nobody uses at the moment.
  EventStock events{*backend, leftovers};
  /// The streams that were used on this device (streams/stream_registry.hpp). Set once, right after construction.
  std::shared_ptr<StreamRegistry> streams;
  /// Gives every finished block of the device back to its heap and returns their number (heap/collect.hpp). A pointer,
  /// because streams/ (the watcher) calls it and must not include heap/. Set once, right after construction.
  std::size_t (*collect)(DeviceCore&, Wanted) noexcept = nullptr;

  /// True in a forked child, if a parent process made the device. The library's threads do not run here, and locks may
  /// be held for ever: nothing of the device may be touched.
  bool of_another_process() const noexcept { return process_ != this_process(); }

  /// Whether a sticky error has ended the device. In a forked child the parent's devices are all lost.
  bool lost() const noexcept {
    return lost_.load(std::memory_order_acquire) || of_another_process();  // pairs with note_lost()
  }
  /// Marks the device as lost if the status says so, and returns the status unchanged. Pass every Status of the backend
  /// through it.
  Status note(Status status) noexcept {
    if (status.code == StatusCode::device_lost || status.code == StatusCode::unloading) note_lost(status);
    return status;
  }

  /// The Error for a failed Status. `object` is what the user called, `call` what failed in it, `numbers` with what.
  Error error(Status status, std::string_view object, std::string_view call, std::string_view numbers = {});
  /// The Error of a call on a lost device; it says why the device was lost.
  Error lost_error(std::string_view call);
  /// For destructors and threads, which cannot report: the first such error waits for Device::take_error().
  void keep_error(Status status, std::string_view object, std::string_view call) noexcept;
  void keep_error(Error error) noexcept;
  std::optional<Error> take_error() noexcept;

  /// Shared by who begins a capture in a stream of thole's; alone, by who gives the device what would invalidate it.
  /// Never held across a wait for the device, but where the driver is older than CUDA 12.5 (record_device).
  std::shared_mutex captures_begin;

  /// True once a stream of this device has used memory of another device's arena. Who collects for that arena must then
  /// ask the streams of this device, too.
  std::atomic<bool> used_across_devices{false};
  /// Whether the library's own thread looks at the device already (is_watched() in streams/watcher.hpp).
  std::atomic<bool> watched{false};
  /// Destroys what is left, and events that are too many, and makes some ahead. May block as long as a stream is stuck.
  void tidy() noexcept;
  bool is_untidy() const noexcept { return has_too_much() || (!lost() && events.is_low()); }
  /// Something is to be destroyed.
  bool has_too_much() const noexcept { return !leftovers.empty() || events.is_high(); }
  /// True: the caller is the one who sees to it that tidy() is called, and calls end_tidying() then, or where that
  /// cannot be done.
  bool begin_tidying() noexcept { return !tidying_.exchange(true, std::memory_order_acquire); }
  void end_tidying() noexcept { tidying_.store(false, std::memory_order_release); }
  /// A guess.
  bool is_tidying() const noexcept { return tidying_.load(std::memory_order_relaxed); }

  /// The next one of those that wait for their end (end_device() in streams/watcher.hpp); under the watcher's mutex.
  DeviceCore* next_to_end = nullptr;

 private:
  std::atomic<bool> tidying_{false};  // acquire, release: one after the other

  void note_lost(Status status) noexcept;
  std::string describe(Status status) const;

  // Alone in their line: every call looks at them.
  alignas(64) std::atomic<bool> lost_{false};
  const std::uint32_t process_ = this_process();  // that made it: no other may take the mutex, or call the backend
  std::mutex mutex_;
  std::optional<Status> lost_status_;  // what the call said that met the loss first; under mutex_
  std::optional<Error> kept_;          // what take_error() will return; under mutex_
};

}  // namespace thole::inline v0_1::detail
