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

namespace thole::detail {

class StreamRegistry;
struct DeviceBlock;

struct DeviceCore {
  explicit DeviceCore(std::shared_ptr<DeviceBackend> made);
  ~DeviceCore();
  DeviceCore(const DeviceCore&) = delete;
  DeviceCore& operator=(const DeviceCore&) = delete;

  const std::shared_ptr<DeviceBackend> backend;
  /// Every stream that was used on this device (timelines.hpp); set once by who makes the device.
  std::shared_ptr<StreamRegistry> timelines;

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

  /// Set once a block of another device's arena is used here: whoever collects for that device has to ask here, too.
  std::atomic<bool> serves_others{false};
  /// A GPU's, which is never destroyed; set by who makes it. Else see watch_orphan().
  bool immortal = false;
  /// Device memory that cannot be freed yet (device_block.hpp): a stack; pushing releases, taking all of it acquires.
  std::atomic<DeviceBlock*> waiting_device_blocks{nullptr};
  /// How many references to this object only keep it alive until its streams have run dry: Timeline::keep_,
  /// and device memory that waits to be freed.
  std::atomic<long> orphan_references{0};

 private:
  void note_lost(Status status) noexcept;

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
