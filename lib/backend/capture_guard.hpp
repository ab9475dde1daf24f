#pragma once

// Calls that CUDA forbids during somebody's capture, made without harm to it.

#include "backend/backend.hpp"

namespace thole::inline v0_1::detail {

/// While it lives, the calling thread's capture mode is relaxed, so that its calls neither fail nor invalidate a
/// capture. CUDA: "Stream Management", cudaThreadExchangeStreamCaptureMode.
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

}  // namespace thole::inline v0_1::detail
