#pragma once

#include <chrono>
#include <optional>

namespace thole::detail {

/// The moment when the time is over; the last there is where it never is.
inline std::chrono::steady_clock::time_point deadline_after(std::chrono::nanoseconds timeout) noexcept {
  using Clock = std::chrono::steady_clock;
  const auto now = Clock::now();
  return timeout > Clock::time_point::max() - now ? Clock::time_point::max() : now + timeout;
}

}  // namespace thole::detail
