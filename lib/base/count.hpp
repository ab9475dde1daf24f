#pragma once

// A number that is written under a lock and read without it.

#include <atomic>
#include <cstdint>

namespace thole::detail {

/// A number that one thread at a time writes, under a lock, and that any thread may read meanwhile. Relaxed: a figure.
class Count {
 public:
  Count() = default;
  Count& operator=(std::uint64_t value) noexcept { return set(value); }
  Count(const Count& other) noexcept : value_(other) {}
  Count& operator=(const Count& other) noexcept { return set(other); }
  Count& operator+=(std::uint64_t amount) noexcept { return set(*this + amount); }
  Count& operator-=(std::uint64_t amount) noexcept { return set(*this - amount); }
  operator std::uint64_t() const noexcept { return value_.load(std::memory_order_relaxed); }

 private:
  Count& set(std::uint64_t value) noexcept {
    value_.store(value, std::memory_order_relaxed);
    return *this;
  }
  std::atomic<std::uint64_t> value_{0};
};

}  // namespace thole::detail
