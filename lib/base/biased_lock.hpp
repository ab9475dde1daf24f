#pragma once

// A lock that one thread, its owner, takes all the time and others hardly ever. The owner pays two plain stores and a
// load; who else wants it pays for the barrier that the owner leaves out (hold.hpp has the same bargain).

#include <atomic>
#include <thread>

#include <thole/detail/asymmetric_fence.hpp>

namespace thole::detail {

class BiasedLock {
 public:
  /// The owner only.
  void lock() noexcept {
    for (;;) {
      if (has_asymmetric_fence.load(std::memory_order_relaxed)) [[likely]] {
        owner_in_.store(true, std::memory_order_relaxed);
        std::atomic_signal_fence(std::memory_order_seq_cst);  // the other half is announced()'s barrier
      } else {
        owner_in_.exchange(true, std::memory_order_seq_cst);
      }
      // Acquire: pairs with unlock_other(). seq_cst: after the store, against announce_other().
      if (!other_in_.load(std::memory_order_seq_cst)) [[likely]]
        return;
      owner_in_.store(false, std::memory_order_release);
      while (other_in_.load(std::memory_order_relaxed)) std::this_thread::yield();
    }
  }
  void unlock() noexcept { owner_in_.store(false, std::memory_order_release); }

  /// Any thread but the owner; one at a time, by a lock of its own. Sections are short: whoever waits, yields. In three
  /// steps, of which the middle one, a system call, serves any number of locks.
  void announce_other() noexcept { other_in_.exchange(true, std::memory_order_seq_cst); }
  static void announced() noexcept {
    if (has_asymmetric_fence.load(std::memory_order_relaxed)) run_asymmetric_fence();
  }
  void lock_announced() noexcept {
    while (owner_in_.load(std::memory_order_seq_cst)) std::this_thread::yield();  // acquire: pairs with unlock()
  }
  void unlock_other() noexcept { other_in_.store(false, std::memory_order_release); }

 private:
  std::atomic<bool> owner_in_{false};
  std::atomic<bool> other_in_{false};
};

}  // namespace thole::detail
