#pragma once

// A lock in one byte, or beside a pointer in its word, for sections of some nanoseconds that are hardly ever contended:
// one atomic operation to take it, a store to give it back. Who finds it taken tries again for some microseconds and
// then sleeps between tries, so that a holder which lost its processor gets one, also under real-time scheduling, where
// a yield would not give it any.

#include <atomic>
#include <cstdint>

namespace thole::inline v0_1::detail {

/// Between two tries to take a lock, after so many in vain.
void pause_before_try(int tries) noexcept;

class SpinLock {
 public:
  void lock() noexcept {
    if (taken_.exchange(true, std::memory_order_acquire)) [[unlikely]]  // pairs with unlock()
      wait();
  }
  void unlock() noexcept { taken_.store(false, std::memory_order_release); }

 private:
  void wait() noexcept {
    for (int tries = 0;; ++tries) {
      pause_before_try(tries);
      if (!taken_.load(std::memory_order_relaxed) && !taken_.exchange(true, std::memory_order_acquire)) return;
    }
  }
  std::atomic<bool> taken_{false};
};

/// A pointer to a T, and the lock that guards it and what it points to, in its lowest bit.
template <class T>
class LockedPointer {
 public:
  void lock() noexcept {
    if (!try_lock()) [[unlikely]]
      wait();
  }
  void unlock() noexcept { word_.store(number_of(get()), std::memory_order_release); }

  /// Under the lock, or where the caller knows that nobody sets it.
  T* get() const noexcept { return reinterpret_cast<T*>(word_.load(std::memory_order_relaxed) & ~taken); }
  /// Under the lock.
  void set(T* pointer) noexcept { word_.store(number_of(pointer) | taken, std::memory_order_relaxed); }

 private:
  static constexpr std::uintptr_t taken = 1;
  static std::uintptr_t number_of(T* pointer) noexcept { return reinterpret_cast<std::uintptr_t>(pointer); }
  // Acquire: pairs with unlock().
  bool try_lock() noexcept { return (word_.fetch_or(taken, std::memory_order_acquire) & taken) == 0; }
  void wait() noexcept {
    for (int tries = 0;; ++tries) {
      pause_before_try(tries);
      if ((word_.load(std::memory_order_relaxed) & taken) == 0 && try_lock()) return;
    }
  }
  std::atomic<std::uintptr_t> word_{0};
};

/// Holds the lock while it lives.
template <class Lock>
class [[nodiscard]] SpinGuard {
 public:
  explicit SpinGuard(Lock& lock) noexcept : lock_(lock) { lock_.lock(); }
  ~SpinGuard() { lock_.unlock(); }
  SpinGuard(const SpinGuard&) = delete;
  SpinGuard& operator=(const SpinGuard&) = delete;

 private:
  Lock& lock_;
};

}  // namespace thole::inline v0_1::detail
