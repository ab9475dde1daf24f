#pragma once

// One heap: the caches of the threads that use it, and its life. Blocks point to their heap; so a HeapCore lives, and
// keeps its arena, until its handle is gone and its last block is back. HeapCore objects are type-stable and used
// again, so that a thread that is late may still look at one.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>

#include "heap/arena_core.hpp"
#include "heap/thread_cache.hpp"
#include "streams/timeline.hpp"

namespace thole::detail {

struct HeapFigures {
  std::size_t made = 0;  // blocks, as are at_once to waited
  std::size_t at_once = 0;
  std::size_t deferred = 0;
  std::size_t recycled = 0;
  std::size_t waited = 0;
  std::size_t in_use = 0;  // bytes, as are all below
  std::size_t in_flight = 0;
  std::size_t cached = 0;
  std::size_t waste = 0;
};

struct HeapCore {
  /// A heap on the arena. Throws std::bad_alloc.
  static HeapCore* open(std::shared_ptr<ArenaCore> arena, std::size_t alignment, bool background_reclaim = false);
  /// The handle is gone: nothing is made any more, and what comes back goes to the store. Never throws or blocks.
  void close() noexcept;

  /// A block from this thread's cache that is the program's from now on, or nullptr. `bytes` rounded by size_class.
  Block* take_cached(std::size_t bytes, std::size_t alignment, std::size_t asked_bytes) noexcept;
  /// As take_cached, from another thread's.
  Block* take_from_others(std::size_t bytes, std::size_t alignment, std::size_t asked_bytes) noexcept;
  /// As take_cached, from the store; small ones in batches of which the rest goes into the cache.
  Block* take_from_store(std::size_t bytes, std::size_t alignment, std::size_t asked_bytes) noexcept;
  void count_waited() noexcept;
  /// The stream on which this thread last left a block, where one is most likely finished; nullptr if that is gone.
  std::shared_ptr<Timeline> recent() noexcept;

  /// Nobody holds the block any more: frees it, or queues it on the stream that uses it.
  void let_go(Block* block) noexcept;
  /// A queued block has come back from a stream: frees it, or queues it on the next stream that uses it.
  void came_back(Block* block) noexcept;

  /// Ends the heap if it is closed and all its blocks are back. The thread that brings the last block back calls this
  /// after it has counted the block, when another may have ended the heap already: this object may then serve the next.
  void finish_if_all_back() noexcept;

  /// Gives what the caches keep back to the store. Any thread; owners go on meanwhile.
  void flush() noexcept;
  HeapFigures figures(bool with_cached = true) const noexcept;

  ArenaCore& arena() const noexcept { return *arena_; }
  bool device_lost() const noexcept { return device_->lost(); }
  bool of_another_process() const noexcept { return device_->of_another_process(); }
  std::size_t alignment() const noexcept { return alignment_; }

  /// Notes how much is in use and in flight now.
  void note_peak() noexcept;
  /// Bytes in use and in flight, at most, and blocks deferred at one time, at most. In lines that no hot path reads.
  alignas(64) std::atomic<std::size_t> peak{0};
  std::atomic<std::size_t> most_in_flight{0};
  std::atomic<std::size_t> in_flight{0};  ///< blocks deferred now

 private:
  friend struct ThreadCacheTable;
  friend class HeapPool;

  /// Bytes of large blocks that one cache keeps at most. Measured on an inference server's trace: with more, the holes
  /// that caches make cost more than 15 % of the arena.
  std::size_t large_limit() const noexcept { return arena_->store().capacity() / 64; }
  ThreadCache* this_thread_cache() noexcept;
  ThreadCache* adopt_cache() noexcept;
  void abandon_cache(ThreadCache* cache) noexcept;
  template <class F>
  void in_cache(F&& f) noexcept;
  void count_made(Counts& counts, Block& block, std::size_t asked_bytes) noexcept;
  void recycle(Block* block, bool deferred) noexcept;
  template <class F>
  void for_each_cache(F&& f) noexcept;

  alignas(64) std::shared_ptr<ArenaCore> arena_;
  DeviceCore* device_ = nullptr;
  std::size_t alignment_ = 0;
  bool background_reclaim_ = false;
  std::uint32_t index_ = 0;                    // in each thread's table of caches; set once
  std::atomic<bool> closed_{true};             // looked at under a cache's lock; close() takes them all afterwards
  std::atomic<ThreadCache*> caches_{nullptr};  // only ever grows
  alignas(64) mutable std::mutex mutex_;
  bool finished_ = true;
  ThreadCache spare_;  // for threads that can have none of their own; under the mutex
  HeapCore* next_ = nullptr;
};

}  // namespace thole::detail
