#pragma once

// One heap: the caches of the threads that use it, and its life. A heap is open while its handle lives. Blocks point to
// their heap; so a closed heap, with its arena, lives on until its last block is back, and ends on whichever thread
// brings that one. The HeapCore then serves another heap: objects are type-stable, so that a late thread may still lock
// one, and finds out under its lock which heap it serves.
//
// A block's way: taken (the program has it) -> release (nobody holds it any more) -> cached, or freed to the store. One
// that a stream still uses waits there in between, and reclaim() takes it from the stream.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>

#include "base/fork.hpp"
#include "base/recycling_pool.hpp"
#include "heap/arena_core.hpp"
#include "heap/counters.hpp"
#include "heap/thread_cache.hpp"
#include "streams/timeline.hpp"
#include "streams/uses.hpp"

namespace thole::detail {

/// What the program wants of a heap.
struct Request {
  std::size_t asked;      ///< bytes
  std::size_t bytes;      ///< those, rounded up by size_class
  std::size_t alignment;  ///< bytes; at least HeapCore::alignment()
};

/// Thread safety: any thread, at any time that the comments below allow.
struct HeapCore {
  // ---- Life

  /// A heap on the arena. Throws std::bad_alloc.
  /// `background_reclaim`: HeapOptions says what that is.
  static HeapCore* open(std::shared_ptr<ArenaCore> arena, std::size_t alignment, bool background_reclaim = false);
  /// The handle is gone: nothing is taken any more. Ends the heap if all its blocks are back, else the last one does.
  void close() noexcept;
  /// Ends the heap if it is closed and all its blocks are back. Who brings a block back to a closed heap calls this
  /// afterwards. Another thread may have ended the heap by then, and the object may serve the next one, which this call
  /// leaves alone as long as it is open.
  void end_if_all_back() noexcept;

  // ---- While the heap is open

  /// A block that the program has from now on, or nullptr: from this thread's cache,
  Block* take_cached(const Request& request) noexcept;
  /// from any thread's cache,
  Block* take_from_others(const Request& request) noexcept;
  /// or from the store; small blocks are fetched several at a time, and the others go into the cache.
  Block* take_from_store(const Request& request) noexcept;
  /// A request has to wait for copies in flight.
  void count_waited() noexcept;
  /// The stream on which this thread last left a block, where one is most likely finished; nullptr if that is gone.
  std::shared_ptr<Timeline> recent() noexcept;

  // ---- Until the last block is back

  /// Nobody holds the block any more: caches or frees it, or retires it on a stream that uses it.
  void release(Block* block) noexcept;
  /// The stream on which the block was retired is done with it: caches or frees it, or retires it on another that uses
  /// it.
  void reclaim(Block* block) noexcept;
  /// Gives what the caches keep back to the store. Their owners go on meanwhile.
  void flush() noexcept;

  ArenaCore& arena() const noexcept { return *arena_; }
  bool device_lost() const noexcept { return device_->lost(); }
  std::size_t alignment() const noexcept { return alignment_; }
  /// False in a forked child of the process that made the heap. Its locks may be held for ever there: a child may only
  /// drop what it has of the heap, which then does nothing.
  bool of_this_process() const noexcept { return process_ == this_process(); }

  // ---- Figures

  /// Calls `f(const Counts&)` with each thread's share. Takes no lock.
  template <class F>
  void for_each_counts(F&& f) const noexcept {
    f(spare_.counts);
    for (const ThreadCache* cache = caches_.load(std::memory_order_acquire); cache != nullptr; cache = cache->next)
      f(cache->counts);
  }
  /// Bytes of free blocks that the caches keep.
  std::size_t cached_bytes() noexcept;

  /// In lines that no hot path reads.
  alignas(64) Peak peak_bytes;  ///< in use and in flight
  Peak peak_in_flight;          ///< blocks

 private:
  /// Bytes of large blocks that one cache keeps at most. Measured on an inference server's trace: with more, the holes
  /// that caches make cost more than 15 % of the arena.
  std::size_t large_limit() const noexcept { return arena_->store().capacity() / 64; }
  ThreadCache* adopt_cache() noexcept;
  static void abandon_cache(ThreadCache* cache) noexcept;
  template <class F>
  void in_cache(F&& f) noexcept;
  template <class F>
  void for_each_cache(F&& f) noexcept;
  bool end_if_all_back(std::unique_lock<std::mutex>& lock) noexcept;
  void count_made(Counts& counts, Block& block, std::size_t asked_bytes) noexcept;
  template <class F>
  void retire(Block* block, const OpenUse& use, F&& count) noexcept;
  void cache_or_free(Block* block, bool deferred) noexcept;

  alignas(64) std::shared_ptr<ArenaCore> arena_;  // of the heap that the object serves; written under the mutex
  DeviceCore* device_ = nullptr;                  // the arena's
  std::size_t alignment_ = 0;
  bool background_reclaim_ = false;
  std::uint32_t process_ = this_process();
  std::uint32_t index_ = 0;  // in each thread's table of caches; set once
  // Written under the mutex, before close() takes the lock of each cache; read under one of these. So of a block that
  // comes back while its heap is closed either close() hears, or who brings it hears that the heap is closed.
  std::atomic<bool> closed_{false};
  std::atomic<ThreadCache*> caches_{nullptr};  // only ever grows; release, under the mutex; read with acquire
  alignas(64) std::mutex mutex_;               // taken before a cache's lock
  ThreadCache spare_;                          // for threads that can have none of their own; under the mutex
  std::atomic<std::size_t> in_flight_{0};      // blocks deferred now; written under a cache's lock
  HeapCore* next_ = nullptr;                   // in the pool
  using Pool = RecyclingPool<HeapCore, &HeapCore::next_>;
};

/// Gives what the caches of all the arena's heaps keep back to the store.
void flush_heaps(const ArenaCore& arena) noexcept;

}  // namespace thole::detail
