#pragma once

// What the handles of one arena share: its store, and the list of the heaps that draw from it.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include <thole/error.hpp>

#include "backend/device_core.hpp"
#include "base/fork.hpp"
#include "memory/store.hpp"

namespace thole::detail {

struct HeapCore;

/// Owns the store: it is closed when the last handle, heap, buffer, borrow and copy in flight is gone. Thread safety:
/// any thread, at any time.
class ArenaCore {
 public:
  explicit ArenaCore(std::shared_ptr<DeviceCore> device, Store* store) noexcept
      : device_(std::move(device)), store_(store) {}
  ~ArenaCore() {
    if (of_this_process()) store_->close();
  }
  ArenaCore(const ArenaCore&) = delete;
  ArenaCore& operator=(const ArenaCore&) = delete;

  Store& store() const noexcept { return *store_; }
  const std::shared_ptr<DeviceCore>& device() const noexcept { return device_; }
  /// False in a forked child of the process that made the arena. Its memory and its locks are the parent's: a child may
  /// only drop its handles, which then does nothing.
  bool of_this_process() const noexcept { return process_ == this_process(); }

  /// The heap has begun. Throws std::bad_alloc.
  void add(HeapCore* heap);
  /// The heap has ended, after it made so many blocks.
  void remove(HeapCore* heap, std::size_t made) noexcept;
  /// Calls `f(HeapCore&)` for each heap while none begins or ends. Returns how many blocks those have made that have
  /// ended before.
  template <class F>
  std::size_t for_each_heap(F&& f) const {
    const std::scoped_lock lock(mutex_);
    for (HeapCore* const heap : heaps_) f(*heap);
    return made_by_ended_heaps_;
  }

 private:
  const std::shared_ptr<DeviceCore> device_;
  Store* const store_;
  const std::uint32_t process_ = this_process();
  mutable std::mutex mutex_;  // the two below. Taken before a heap's mutex, never while one is held.
  std::vector<HeapCore*> heaps_;
  std::size_t made_by_ended_heaps_ = 0;
};

/// The Error of every call on an object of the process that this one was forked from. `call` names who asks.
Error of_another_process_error(const char* call);

}  // namespace thole::detail
