#pragma once

// Numbers for figures: one that is written under a lock and read without it, and one that all threads add to.

#include <array>
#include <atomic>
#include <cstdint>

#include "base/thread_number.hpp"

namespace thole::inline v0_1::detail {

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

/// A sum that many threads add to at once, mostly each to a part of it that no other writes. Any thread may add and
/// read. Relaxed: a figure, which may be off by what is added meanwhile, and wraps below 0.
class SharedCount {
 public:
  void add(std::uint64_t amount) noexcept {
    parts_[thread_number() % parts_.size()].value.fetch_add(amount, std::memory_order_relaxed);
  }
  std::uint64_t get() const noexcept {
    std::uint64_t sum = 0;
    for (const Part& part : parts_) sum += part.value.load(std::memory_order_relaxed);
    return sum;
  }

 private:
  struct alignas(64) Part {
    std::atomic<std::uint64_t> value{0};
  };
  std::array<Part, 16> parts_;
};

}  // namespace thole::inline v0_1::detail
