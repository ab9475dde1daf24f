#pragma once

// A stack of records that any thread pushes to and one at a time empties as a whole, so that no record can come back
// under a thread that is about to pop it.

#include <atomic>

namespace thole::inline v0_1::detail {

/// Linked by `Next`, a member of the records. Owns nothing. Thread safety: any thread, at any time.
template <class T, T* T::*Next>
class LockFreeStack {
 public:
  void push(T* record) noexcept {
    T* first = first_.load(std::memory_order_relaxed);
    do record->*Next = first;
    while (!first_.compare_exchange_weak(first, record, std::memory_order_release, std::memory_order_relaxed));
  }
  /// Takes all records, linked, the last pushed first. Acquire: pairs with push().
  T* take_all() noexcept { return first_.exchange(nullptr, std::memory_order_acq_rel); }
  bool empty() const noexcept { return first_.load(std::memory_order_acquire) == nullptr; }

 private:
  std::atomic<T*> first_{nullptr};
};

}  // namespace thole::inline v0_1::detail
