#pragma once

// What all handles of one device share: the backend, the streams' timelines, and the first error that a destructor met.

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include <thole/error.hpp>

#include "backend/backend.hpp"
#include "backend/event_stock.hpp"
#include "base/fork.hpp"

namespace thole::detail {

class StreamRegistry;

struct DeviceCore {
  explicit DeviceCore(std::shared_ptr<DeviceBackend> made);
  ~DeviceCore();
  DeviceCore(const DeviceCore&) = delete;
  DeviceCore& operator=(const DeviceCore&) = delete;

  const std::shared_ptr<DeviceBackend> backend;
  EventStock events{*backend};
  /// The streams that were used on this device (streams/stream_registry.hpp); set once by who makes the device.
  std::shared_ptr<StreamRegistry> streams;
  /// Hands everything of the device that is finished to its heaps; returns how many blocks that were
  /// (heap/collect.hpp). Set once by who makes the device: what stands below the heaps calls it, too.
  std::size_t (*collect)(DeviceCore&) noexcept = nullptr;

  /// Whether a process made the device of which this one is a forked child. The library's threads do not run here, and
  /// locks may be held for ever: nothing of the device may be touched.
  bool of_another_process() const noexcept { return made_by_ != this_process(); }

  bool lost() const noexcept { return lost_.load(std::memory_order_acquire); }  // pairs with note()'s release
  /// Remembers a device_lost (or unloading); returns the status unchanged. Called with every Status of a backend.
  Status note(Status status) noexcept {
    if (status.code == StatusCode::device_lost || status.code == StatusCode::unloading) note_lost(status);
    return status;
  }

  /// Turns a failed Status into an Error: `object` and `call` name who failed, `numbers` says with what.
  Error error(Status status, std::string_view object, std::string_view call, std::string_view numbers = {});
  /// The Error of every blocking call on a lost device.
  Error lost_error(std::string_view call);
  /// Keeps the first error for Device::take_error(). Never throws.
  void keep_error(Status status, std::string_view object, std::string_view call) noexcept;
  std::optional<Error> take_error() noexcept;

  /// Set once memory of another device's arena is used here: who collects for that device has to ask here, too.
  std::atomic<bool> used_across_devices{false};
  /// Whether the library's own thread looks at the device already (streams/watcher.hpp): relaxed, a hint.
  std::atomic<bool> watched{false};

 private:
  void note_lost(Status status) noexcept;

  const std::uint32_t made_by_ = this_process();
  alignas(64) std::atomic<bool> lost_{false};  // alone in its line: every call looks at it
  std::mutex mutex_;
  std::optional<Status> lost_status_;
  std::optional<Error> kept_;
};

/// Makes calls that CUDA forbids during somebody's capture harmless: relaxed capture mode for this thread, while it
/// lives. CUDA: "Stream Management", cudaThreadExchangeStreamCaptureMode.
class CaptureGuard {
 public:
  explicit CaptureGuard(DeviceBackend& backend) noexcept
      : backend_(backend), before_(backend.exchange_capture_mode(CaptureMode::relaxed)) {}
  ~CaptureGuard() { backend_.exchange_capture_mode(before_); }
  CaptureGuard(const CaptureGuard&) = delete;
  CaptureGuard& operator=(const CaptureGuard&) = delete;

 private:
  DeviceBackend& backend_;
  CaptureMode before_;
};

}  // namespace thole::detail
