#pragma once

// When a wait ends.

#include <chrono>
#include <optional>

#include <thole/forever.hpp>

namespace thole::inline v0_1::detail {

/// Empty: the call that takes it says what that means.
using Deadline = std::optional<std::chrono::steady_clock::time_point>;

/// So long from now; the last moment there is where the timeout is longer than can be said.
inline Deadline deadline_after(std::chrono::nanoseconds timeout) noexcept {
  using Clock = std::chrono::steady_clock;
  const auto now = Clock::now();
  return timeout > Clock::time_point::max() - now ? Clock::time_point::max() : now + timeout;
}

/// The same for a wait that has no end where it is empty: the device then wakes the thread, and nobody asks it.
inline Deadline end_of_wait(std::chrono::nanoseconds timeout) noexcept {
  return timeout == forever ? Deadline() : deadline_after(timeout);
}

}  // namespace thole::inline v0_1::detail
