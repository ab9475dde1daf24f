#pragma once

// Objects that live once in a process and are never destroyed: threads of the library's own that nobody joins, static
// destructors and code after main may use them at any time. A forked child makes its own (fork.hpp).

#include <atomic>
#include <new>

namespace thole::detail {

/// Where one immortal object is kept. All slots form a list, so that a forked child can empty them.
class ImmortalSlot {
 public:
  void* get() const noexcept { return object_.load(std::memory_order_acquire); }  // pairs with publish()
  /// Keeps `made` unless another thread was faster; returns the one that is kept.
  void* publish(void* made) noexcept;

 private:
  friend void forget_immortals() noexcept;
  std::atomic<void*> object_{nullptr};
  void* of_the_parent_ = nullptr;  // still reachable, for leak checkers
  bool listed_ = false;            // under the lock of the list, as is next_
  ImmortalSlot* next_ = nullptr;
};

/// In a forked child, before anything else runs there: each object is made anew when it is next asked for.
void forget_immortals() noexcept;

/// The one object of this type in the process, made on first use. Ends the process where there is no memory for it.
template <class T>
T& immortal() noexcept {
  static constinit ImmortalSlot slot;
  void* object = slot.get();
  if (object == nullptr) [[unlikely]] {
    T* const made = new T;
    object = slot.publish(made);
    if (object != made) delete made;
  }
  return *static_cast<T*>(object);
}

}  // namespace thole::detail
