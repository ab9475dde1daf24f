#pragma once

// Objects that live once in a process and are never destroyed: threads of the library's own that nobody joins, static
// destructors and code after main may use them at any time. A forked child makes its own (fork.hpp).

#include <atomic>
#include <cstddef>
#include <memory>
#include <new>

namespace thole::inline v0_1::detail {

/// Where one immortal object is kept. All slots form a list, so that a forked child can empty them.
class ImmortalSlot {
 public:
  void* get() const noexcept { return object_.load(std::memory_order_acquire); }  // pairs with publish()
  /// Whether the caller may make the object at the place that is there for one: the first in the process.
  bool take_place() noexcept { return !place_taken_.exchange(true, std::memory_order_relaxed); }
  /// Keeps `made` unless another thread was faster; returns the one that is kept.
  void* publish(void* made) noexcept;

 private:
  friend void forget_immortals() noexcept;
  std::atomic<void*> object_{nullptr};
  std::atomic<bool> place_taken_{false};
  void* of_the_parent_ = nullptr;  // still reachable, for leak checkers
  bool listed_ = false;            // under the lock of the list, as is next_
  ImmortalSlot* next_ = nullptr;
};

/// In a forked child, before anything else runs there: each object is made anew when it is next asked for.
void forget_immortals() noexcept;

/// The one object of this type in the process, made on first use. Needs no memory of the system's, so that calls which
/// cannot fail may be the first; but in a forked child, and where two threads meet here, which ends the process where
/// there is none.
template <class T>
T& immortal() noexcept {
  static constinit ImmortalSlot slot;
  void* object = slot.get();
  if (object == nullptr) [[unlikely]] {
    alignas(T) static constinit std::byte place[sizeof(T)]{};
    const bool first = slot.take_place();
    T* const made = first ? new (place) T : new T;
    object = slot.publish(made);
    if (object != made) first ? std::destroy_at(made) : delete made;
  }
  return *static_cast<T*>(object);
}

}  // namespace thole::inline v0_1::detail
