#pragma once

// One heap: the caches of the threads that use it, and its life. A heap is open while its handle lives. Blocks point to
// their heap; so a closed heap, with its arena, lives on until its last block is back, and ends on whichever thread
// brings that one. The HeapCore then serves another heap: objects are type-stable, so that a late thread may still lock
// one, and finds out under its lock which heap it serves.
//
// While a heap is open, each thread counts for itself what it makes and what comes back. close() adds that up, and from
// then on all count together how many blocks are still out; who brings the last one, and nobody else, ends the heap.
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
#include "blocks/block_pool.hpp"
#include "heap/arena_core.hpp"
#include "heap/counters.hpp"
#include "heap/quota.hpp"
#include "heap/thread_cache.hpp"
#include "streams/timeline.hpp"
#include "streams/uses.hpp"

namespace thole::inline v0_1::detail {

/// What the program wants of a heap.
struct Request {
  std::size_t asked;             ///< bytes
  std::size_t bytes;             ///< those, rounded up by size_class
  std::size_t alignment;         ///< bytes; at least HeapCore::alignment()
  mutable bool refused = false;  ///< by the quota, once at least, perhaps only since another thread took too much
};

struct HeapSettings {
  std::size_t alignment = granule;  ///< bytes, of every buffer, at least
  bool background_reclaim = false;  ///< HeapOptions says what that is
  std::size_t max_bytes = 0;        ///< HeapOptions says what that is
  bool of_one_block = false;        ///< no thread gets a cache for it
};

/// Thread safety: any thread, at any time that the comments below allow.
struct HeapCore {
  // ---- Life

  /// A heap on the arena. Throws std::bad_alloc.
  static HeapCore* open(std::shared_ptr<ArenaCore> arena, const HeapSettings& settings);
  /// The handle is gone: nothing is taken any more. Ends the heap if all its blocks are back, else the last one does.
  void close() noexcept;
  // ---- While the heap is open

  /// A block that the program has from now on, or nullptr: from this thread's cache or the depot,
  Block* take_cached(const Request& request) noexcept;
  /// from any thread's cache of any heap of the arena,
  Block* take_from_others(const Request& request) noexcept;
  /// or from the store; small blocks are fetched several at a time, and the others go into the cache.
  /// `leftovers`: Store::allocate_batch says what that is.
  Block* take_from_store(const Request& request, bool leftovers = false) noexcept;
  /// A block that the caller has from the store: it is the program's from now on.
  void take_made(Block& block, std::size_t asked_bytes) noexcept;
  /// Gives what its own caches keep to the store.
  void flush_caches() noexcept;
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

  ArenaCore& arena() const noexcept { return *arena_; }
  /// For who does not know whether the heap still serves; keeps the arena meanwhile.
  std::shared_ptr<ArenaCore> arena_if_any() noexcept {
    const std::scoped_lock lock(mutex_);
    return arena_;
  }
  bool device_lost() const noexcept { return device_->lost(); }
  std::size_t alignment() const noexcept { return alignment_; }
  const Quota& quota() const noexcept { return quota_; }
  /// False in a forked child of the process that made the heap. Its locks may be held for ever there: a child may only
  /// drop what it has of the heap, which then does nothing.
  bool of_this_process() const noexcept { return process_ == this_process(); }

  // ---- Figures

  /// The sum of all threads' shares; notes the peak.
  Counters<std::size_t> sum_counts() noexcept;
  /// Whether all blocks of the open heap are back. True only where that was so at one time during the call.
  bool none_out() noexcept;

  /// In lines that no hot path reads. Threads add up what they have in use and in flight when they go to the depot or
  /// the store, so that the peak may be low by what their caches keep.
  alignas(64) Peak peak_bytes;
  Peak peak_in_flight;  ///< blocks

 private:
  ThreadCache* adopt_cache() noexcept;
  static void abandon_cache(ThreadCache* cache) noexcept;
  template <class F>
  void in_cache(F&& f) noexcept;
  template <class F>
  void for_each_cache(F&& f) noexcept;
  void set_capacity(ThreadCache& cache) const noexcept;
  void settle(ThreadCache& cache) noexcept;
  void end() noexcept;
  bool count_taken(std::size_t taken, Block** blocks, std::size_t count) noexcept;
  void count_made(ThreadCache& cache, Block& block, std::size_t asked_bytes) noexcept;
  template <class F>
  void retire(Block* block, const OpenUse& use, F&& count) noexcept;
  void cache_or_free(Block* block, bool deferred) noexcept;

  alignas(64) std::shared_ptr<ArenaCore> arena_;  // of the heap that the object serves; written under the mutex
  DeviceCore* device_ = nullptr;                  // the arena's
  std::size_t alignment_ = 0;
  bool background_reclaim_ = false;
  bool of_one_block_ = false;  // under the mutex
  Quota quota_;
  std::uint32_t process_ = this_process();
  std::uint32_t index_ = 0;       // in each thread's table of caches; set once
  alignas(64) std::mutex mutex_;  // of what follows up to the caches; taken before a cache's lock
  // Written under the mutex, before close() takes the lock of each cache; read under one of these. So of a block that
  // comes back while its heap is closed either close() hears, or who brings it hears that the heap is closed.
  std::atomic<bool> closed_{false};
  ThreadCache* caches_ = nullptr;   // that threads own
  ThreadCache* unowned_ = nullptr;  // of threads that have ended: empty, for other threads
  ThreadCache spare_;               // keeps no block; for threads that can have no cache, and of those that have ended
  std::atomic<std::int64_t> out_{0};       // since close(): blocks that are not back; who brings it to 0 ends the heap
  std::atomic<std::size_t> in_flight_{0};  // blocks deferred now; written under a cache's lock
  std::atomic<std::uint64_t> held_{0};     // bytes in use and in flight, as far as threads have settled
  HeapCore* next_ = nullptr;               // in the pool
  using Pool = RecyclingPool<HeapCore, &HeapCore::next_>;
};

/// Calls `f(const Block&)` with each block of the open heap, also with those that are free. Looks at every record of
/// the process, unless the heap has no block out, and takes no lock that others wait for: they go on meanwhile.
template <class F>
void for_each_block(HeapCore& heap, F&& f) {
  if (heap.none_out()) return;
  for_each_record([&](const Block& block) {
    if (block.heap.load(std::memory_order_relaxed) == &heap) f(block);
  });
}
/// The same of those that streams use, or did.
template <class F>
void for_each_used_block(HeapCore& heap, F&& f) {
  for_each_block(heap, [&](const Block& block) {
    if (block.used.load(std::memory_order_acquire)) f(block);
  });
}

}  // namespace thole::inline v0_1::detail
