#pragma once

// A lock in one byte, for sections of some nanoseconds that are hardly ever contended: one atomic exchange to take it,
// a store to give it back. Who finds it taken tries again a few times and then sleeps between tries, so that a holder
// which lost its processor gets one, also under real-time scheduling, where a yield would not give it any.

#include <atomic>

namespace thole::detail {

class SpinLock {
 public:
  void lock() noexcept {
    if (taken_.exchange(true, std::memory_order_acquire)) [[unlikely]]  // pairs with unlock()
      wait();
  }
  void unlock() noexcept { taken_.store(false, std::memory_order_release); }

 private:
  void wait() noexcept;
  std::atomic<bool> taken_{false};
};

/// Holds the lock while it lives.
class [[nodiscard]] SpinGuard {
 public:
  explicit SpinGuard(SpinLock& lock) noexcept : lock_(lock) { lock_.lock(); }
  ~SpinGuard() { lock_.unlock(); }
  SpinGuard(const SpinGuard&) = delete;
  SpinGuard& operator=(const SpinGuard&) = delete;

 private:
  SpinLock& lock_;
};

}  // namespace thole::detail
