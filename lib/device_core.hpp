#pragma once

// What all handles of one device share: the backend, the pool of events, the streams' timelines, and the first error
// that a destructor met.

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include <thole/error.hpp>

#include "backend.hpp"

namespace thole::detail {

struct DeviceCore {
  explicit DeviceCore(std::shared_ptr<Backend> b);
  ~DeviceCore();

  std::shared_ptr<Backend> backend;

  /// Set once, by whichever call first heard device_lost; pairs with the acquire in lost().
  std::atomic<bool> lost_flag{false};
  bool lost() const noexcept { return lost_flag.load(std::memory_order_acquire); }

  /// Turns a failed Status into an Error: `object` and `call` name who failed, `numbers` says with what.
  Error error(Status status, std::string_view object, std::string_view call, std::string_view numbers = {}) noexcept;
  /// Keeps the first error for Device::take_error().
  void keep_error(const Error& error) noexcept;
  std::optional<Error> take_error() noexcept;

 private:
  std::mutex mutex_;
  std::optional<Error> kept_;
};

/// Makes calls that CUDA forbids during somebody's capture harmless: relaxed capture mode for this thread, while it lives.
/// CUDA: "Stream Management", cudaThreadExchangeStreamCaptureMode.
class CaptureGuard {
 public:
  explicit CaptureGuard(Backend& backend) noexcept
      : backend_(backend), before_(backend.exchange_capture_mode(CaptureMode::relaxed)) {}
  ~CaptureGuard() { backend_.exchange_capture_mode(before_); }
  CaptureGuard(const CaptureGuard&) = delete;
  CaptureGuard& operator=(const CaptureGuard&) = delete;

 private:
  Backend& backend_;
  CaptureMode before_;
};

}  // namespace thole::detail
