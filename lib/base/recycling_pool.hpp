#pragma once

// Records that are used again and never given back to the system: a stale pointer to one always points to a T.

#include <mutex>

namespace thole::inline v0_1::detail {

/// Linked by `Next`, a member of the records. Thread safety: any thread, at any time.
template <class T, T* T::*Next>
class RecyclingPool {
 public:
  /// One that was given back, or nullptr.
  T* take() noexcept {
    const std::scoped_lock lock(mutex_);
    T* const record = first_;
    if (record != nullptr) first_ = record->*Next;
    return record;
  }
  void give(T* record) noexcept {
    const std::scoped_lock lock(mutex_);
    record->*Next = first_;
    first_ = record;
  }

 private:
  std::mutex mutex_;
  T* first_ = nullptr;
};

}  // namespace thole::inline v0_1::detail
