#pragma once

// A number for each thread, which no later one gets again.

#include <atomic>
#include <cstdint>

namespace thole::inline v0_1::detail {

inline std::uint64_t thread_number() noexcept {
  static constinit std::atomic<std::uint64_t> last{0};  // only counts: pairs with nothing
  thread_local const std::uint64_t number = last.fetch_add(1, std::memory_order_relaxed) + 1;
  return number;
}

}  // namespace thole::inline v0_1::detail
