#pragma once

// What the handles of one arena share: its store, the heaps that draw from it, and what these keep of it: the depot,
// and the *keepers*, which are the threads' caches that have blocks, or had. Who finds no memory looks there, and at
// nothing else, however many threads and heaps there are or were.

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include <thole/error.hpp>

#include "backend/device_core.hpp"
#include "base/count.hpp"
#include "base/fork.hpp"
#include "base/lock_free_stack.hpp"
#include "heap/depot.hpp"
#include "heap/thread_cache.hpp"
#include "memory/store.hpp"

namespace thole::inline v0_1::detail {

struct HeapCore;

/// Owns the store: it is closed when the last handle, heap, buffer, borrow and copy in flight is gone. Thread safety:
/// any thread, at any time.
class ArenaCore : public std::enable_shared_from_this<ArenaCore> {
 public:
  explicit ArenaCore(std::shared_ptr<DeviceCore> device, Store* store) noexcept
      : depot(*store), device_(std::move(device)), store_(store) {}
  ~ArenaCore() {
    if (!of_this_process()) return;
    depot.flush();
    store_->close();
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

  // ---- What is kept

  Depot depot;
  SharedCount in_flight;  ///< bytes that wait for streams

  /// Under the lock of a cache that is none yet: it is a keeper from now on, until it is flushed or its heap ends.
  void add_keeper(ThreadCache& cache) noexcept {
    cache.is_keeper = true;
    new_keepers_.push(&cache);
  }
  /// Under no cache's lock. The heap ends, and nobody puts anything into this cache of it.
  void remove_keeper(ThreadCache& cache) noexcept;
  /// A block from some keeper, or nullptr. Where there is one, `moving` has begun.
  Block* take_from_keepers(std::size_t bytes, std::size_t alignment, MovingBlocks& moving) noexcept;
  /// Gives all that is kept to the store.
  void flush() noexcept;
  /// The same where nothing is in use and so many bytes are about to be taken from the store: what is kept would lie in
  /// the way. Seldom, so that programs which make and drop one buffer after the other still find them in their caches.
  void flush_if_idle(std::size_t bytes) noexcept;
  /// Bytes of free blocks that are kept, summed while threads go on.
  std::size_t kept_bytes() const noexcept;

  // ---- What the library's own thread does (heap/caretaker.hpp)

  /// Set before take_care_of(), and that thread's alone from then on. time_point::max(): never.
  struct Upkeep {
    std::chrono::nanoseconds trim_after{0};  ///< ArenaOptions says what that is
    std::chrono::steady_clock::time_point next_piece = std::chrono::steady_clock::time_point::max();
    std::chrono::steady_clock::time_point next_look = std::chrono::steady_clock::time_point::max();
  } upkeep;
  /// Whether the program has a handle of the arena or of a heap, and not only blocks. The caller has one reference.
  bool is_held() const noexcept;
  /// Whether some stream of the device has something of thole's to do.
  bool is_busy() const noexcept;
  /// Unpins what the arena has grown by and not used for `age`; what is kept does not count as used. Returns bytes.
  std::size_t trim_idle(std::chrono::steady_clock::time_point now, std::chrono::nanoseconds age) noexcept;

 private:
  template <class F>
  void visit_keepers(F&& f) const noexcept;
  void unlink(ThreadCache& cache) const noexcept;

  const std::shared_ptr<DeviceCore> device_;
  Store* const store_;
  const std::uint32_t process_ = this_process();
  mutable std::mutex mutex_;  // the two below. Taken before a heap's mutex, never while one is held.
  std::vector<HeapCore*> heaps_;
  std::size_t made_by_ended_heaps_ = 0;
  mutable LockFreeStack<ThreadCache, &ThreadCache::next_keeper> new_keepers_;
  mutable std::mutex keepers_mutex_;  // the list below. Taken before a cache's lock.
  mutable ThreadCache* keepers_ = nullptr;
  std::atomic<std::size_t> large_takes_{0};  // since the last flush; relaxed, as the next: a hint
  std::atomic<std::size_t> next_look_{0};    // the take from which on to look for what is kept
};

/// The Error of every call on an object of the process that this one was forked from. `call` names who asks.
Error of_another_process_error(const char* call);

}  // namespace thole::inline v0_1::detail
