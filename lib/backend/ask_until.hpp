#pragma once

// Waiting for a device with a deadline: CUDA knows no such wait, so that the device is asked.

#include <algorithm>
#include <chrono>
#include <thread>

#include "backend/backend.hpp"

namespace thole::inline v0_1::detail {

/// Asks again and again, ever less often, until the answer is another than not_ready or the time is over.
template <class Ask>
Status ask_until(std::chrono::steady_clock::time_point deadline, Ask ask) noexcept {
  constexpr auto longest_pause = std::chrono::microseconds(1000);
  auto pause = std::chrono::microseconds(5);
  for (;;) {
    const Status status = ask();
    const auto now = std::chrono::steady_clock::now();
    if (status.code != StatusCode::not_ready || now >= deadline) return status;
    std::this_thread::sleep_for(std::min<std::chrono::nanoseconds>(pause, deadline - now));
    pause = std::min(pause * 2, longest_pause);
  }
}

}  // namespace thole::inline v0_1::detail
