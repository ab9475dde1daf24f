#include "heap/heap_core.hpp"

#include <array>
#include <new>
#include <utility>

#include "base/immortal.hpp"
#include "heap/thread_cache_table.hpp"
#include "streams/cross_device.hpp"
#include "streams/part_blocks.hpp"
#include "streams/watcher.hpp"

namespace thole::detail {

namespace {

// Counts on in a forked child, so that no heap of the child's has the index of one of the parent's.
constinit std::atomic<std::uint32_t> next_index{0};

/// To the store that the blocks came from; all of one heap's come from one.
void free_all(MovingBlocks& blocks) noexcept {
  std::array<Block*, 64> some;
  for (;;) {
    std::size_t count = 0;
    while (count != some.size()) {
      Block* const block = blocks.pop();
      if (block == nullptr) break;
      some[count++] = block;
    }
    if (count == 0) return;
    some[0]->store->free_batch(some.data(), count);
  }
}

std::size_t waste_of(const Block& block) noexcept {
  return block.capacity - block.asked_bytes.load(std::memory_order_relaxed);
}

void count_released(Counts& counts, const Block& block) noexcept {
  counts.in_use -= block.capacity;
  counts.waste -= waste_of(block);
}

/// A heap's blocks may wait on any device that uses memory of others.
void watch_all(const std::shared_ptr<DeviceCore>& device) noexcept try {
  watch(device);
  for (const auto& other : devices_used_across(*device)) watch(other);
} catch (const std::bad_alloc&) {
  // What waits there comes back when that device is asked for another reason.
}

}  // namespace

// ---- Life

HeapCore* HeapCore::open(std::shared_ptr<ArenaCore> arena, std::size_t alignment, bool background_reclaim) {
  HeapCore* heap = immortal<Pool>().take();
  if (heap == nullptr) {
    heap = new HeapCore;
    heap->index_ = next_index.fetch_add(1, std::memory_order_relaxed);
  }
  {
    const std::scoped_lock lock(heap->mutex_);
    heap->for_each_cache([](ThreadCache& cache) {
      cache.counts = {};
      cache.returned = 0;
      cache.recent.reset();
    });
    heap->peak_bytes.reset();
    heap->peak_in_flight.reset();
    heap->arena_ = arena;
    heap->device_ = arena->device().get();
    heap->alignment_ = alignment;
    heap->background_reclaim_ = background_reclaim;
    heap->process_ = this_process();
    heap->closed_.store(false, std::memory_order_relaxed);
  }
  try {
    arena->add(heap);
  } catch (...) {
    heap->close();
    throw;
  }
  return heap;
}

void HeapCore::close() noexcept {
  if (!of_this_process()) return;
  const std::shared_ptr<DeviceCore> device = arena_->device();
  bool waits = false;
  {
    std::unique_lock lock(mutex_);
    closed_.store(true, std::memory_order_relaxed);
    // Still this heap if it did not end here: to end it later takes the mutex.
    waits = !end_if_all_back(lock) && in_flight_.load(std::memory_order_relaxed) != 0;
  }
  if (waits) watch_all(device);
}

void HeapCore::end_if_all_back() noexcept {
  std::unique_lock lock(mutex_);
  end_if_all_back(lock);
}

/// Under the mutex, which it unlocks where it ends the heap; returns whether it does.
bool HeapCore::end_if_all_back(std::unique_lock<std::mutex>& lock) noexcept {
  if (arena_ == nullptr || !closed_.load(std::memory_order_relaxed)) return false;
  std::uint64_t made = 0;
  std::uint64_t returned = 0;
  {
    MovingBlocks blocks;
    for_each_cache([&](ThreadCache& cache) {
      made += cache.counts.made;
      returned += cache.returned;
      cache.flush(blocks);
    });
    free_all(blocks);
  }
  if (made != returned) return false;
  const auto arena = std::exchange(arena_, nullptr);  // may be the last reference, and ends the arena on return
  lock.unlock();
  arena->remove(this, made);
  immortal<Pool>().give(this);
  return true;
}

// ---- Caches

/// Under the mutex: calls `f` with each cache, under its lock.
template <class F>
void HeapCore::for_each_cache(F&& f) noexcept {
  for (ThreadCache* cache = caches_.load(std::memory_order_relaxed); cache != nullptr; cache = cache->next) {
    const SpinGuard guard(cache->lock);
    f(*cache);
  }
  f(spare_);
}

/// Calls `f` with the thread's cache, under its lock; with the spare one where the thread can have none. Does nothing
/// in a forked child.
template <class F>
void HeapCore::in_cache(F&& f) noexcept {
  ThreadCache* cache = ThreadCacheTable::find(index_);
  if (cache == nullptr) [[unlikely]] {
    if (!of_this_process()) return;
    cache = adopt_cache();
  }
  if (cache != nullptr) [[likely]] {
    const SpinGuard guard(cache->lock);
    f(*cache);
  } else {
    const std::scoped_lock lock(mutex_);
    f(spare_);
  }
}

/// A cache that no thread owns, or a new one. nullptr: there is no memory, or the thread is ending.
ThreadCache* HeapCore::adopt_cache() noexcept {
  if (!ThreadCacheTable::prepare(index_)) return nullptr;
  const std::scoped_lock lock(mutex_);
  ThreadCache* cache = caches_.load(std::memory_order_relaxed);
  while (cache != nullptr && cache->owned) cache = cache->next;
  if (cache == nullptr) {
    cache = new (std::nothrow) ThreadCache(this);
    if (cache == nullptr) return nullptr;
    cache->next = caches_.load(std::memory_order_relaxed);
    caches_.store(cache, std::memory_order_release);
  }
  cache->owned = true;
  ThreadCacheTable::set(index_, cache, &HeapCore::abandon_cache);
  return cache;
}

/// The thread that owns the cache ends.
void HeapCore::abandon_cache(ThreadCache* cache) noexcept {
  MovingBlocks blocks;
  // Held throughout: these blocks count as returned, so that the heap, its arena and the store could end meanwhile.
  const std::scoped_lock lock(cache->heap->mutex_);
  {
    const SpinGuard guard(cache->lock);
    cache->flush(blocks);
  }
  free_all(blocks);
  cache->owned = false;
}

void HeapCore::flush() noexcept {
  MovingBlocks blocks;
  const std::scoped_lock lock(mutex_);
  for_each_cache([&](ThreadCache& cache) { cache.flush(blocks); });
  free_all(blocks);
}

std::size_t HeapCore::cached_bytes() noexcept {
  std::size_t sum = 0;
  const std::scoped_lock lock(mutex_);
  for_each_cache([&](const ThreadCache& cache) { sum += cache.bytes(); });
  return sum;
}

void flush_heaps(const ArenaCore& arena) noexcept {
  arena.for_each_heap([](HeapCore& heap) { heap.flush(); });
}

// ---- Blocks

void HeapCore::count_made(Counts& counts, Block& block, std::size_t asked_bytes) noexcept {
  block.heap.store(this, std::memory_order_relaxed);
  block.asked_bytes.store(asked_bytes, std::memory_order_relaxed);
  counts.made += 1;
  counts.in_use += block.capacity;
  counts.waste += waste_of(block);
}

Block* HeapCore::take_cached(const Request& request) noexcept {
  Block* block = nullptr;
  in_cache([&](ThreadCache& cache) {
    block = cache.take(request.bytes, request.alignment);
    if (block != nullptr) count_made(cache.counts, *block, request.asked);
  });
  return block;
}

Block* HeapCore::take_from_others(const Request& request) noexcept {
  Block* block = nullptr;
  const std::scoped_lock lock(mutex_);
  for_each_cache([&](ThreadCache& cache) {
    if (block != nullptr) return;
    block = cache.take(request.bytes, request.alignment);
    if (block != nullptr) count_made(cache.counts, *block, request.asked);
  });
  return block;
}

Block* HeapCore::take_from_store(const Request& request) noexcept {
  std::array<Block*, 16> blocks;
  const std::size_t wanted = request.alignment > alignment_ ? 1 : size_class::batch(request.bytes);
  MovingBlocks rest;
  if (wanted > 1) rest.begin();
  std::size_t got = arena_->store().allocate_batch(request.bytes, request.alignment, blocks.data(), wanted);
  if (got <= 1) rest.cancel();
  if (got == 0) return nullptr;
  Block* const block = blocks[0];
  in_cache([&](ThreadCache& cache) {
    count_made(cache.counts, *block, request.asked);
    while (got > 1 && cache.put(blocks[got - 1], 0)) --got;
  });
  if (got > 1) arena_->store().free_batch(blocks.data() + 1, got - 1);
  return block;
}

void HeapCore::count_waited() noexcept {
  in_cache([](ThreadCache& cache) { cache.counts.waited += 1; });
}

std::shared_ptr<Timeline> HeapCore::recent() noexcept {
  std::shared_ptr<Timeline> found;
  in_cache([&](ThreadCache& cache) { found = cache.recent.lock(); });
  return found;
}

void HeapCore::release(Block* block) noexcept {
  if (block->is_part()) [[unlikely]] {
    block = end_part(block);
    if (block == nullptr) return;
  }
  OpenUse open;
  if (std::size_t first = 0; block->untouched() || !next_open(block->uses, Against::everything, first, open)) [[likely]]
    return cache_or_free(block, false);
  retire(block, open, [&](ThreadCache& cache) {
    count_released(cache.counts, *block);
    cache.counts.deferred += 1;
    cache.counts.in_flight += block->capacity;
    peak_in_flight.note(in_flight_.fetch_add(1, std::memory_order_relaxed) + 1);
    cache.note_recent(open.timeline);
  });
}

void HeapCore::reclaim(Block* block) noexcept {
  OpenUse open;
  if (std::size_t first = 0; next_open(block->uses, Against::everything, first, open))
    retire(block, open, [](ThreadCache&) {});
  else
    cache_or_free(block, true);
}

/// Leaves the block on the stream that uses it. `count` runs under the lock of the cache that it gets.
template <class F>
void HeapCore::retire(Block* block, const OpenUse& use, F&& count) noexcept {
  const auto& device = use.timeline->device();
  bool closed = false;
  bool keenly = false;
  in_cache([&](ThreadCache& cache) {
    count(cache);
    closed = closed_.load(std::memory_order_relaxed);
    keenly = background_reclaim_ && !device->watched.load(std::memory_order_relaxed);
    block->wait_position = use.position;
    // Under the lock, as are the counts: close() finds the block on the stream and has that watched, or `closed` is
    // true here. It is the last that happens to the block here: whoever finds it may have it back before this returns.
    use.timeline->retire(block);
  });
  if (closed || keenly) watch(device, keenly);
}

void HeapCore::cache_or_free(Block* block, bool deferred) noexcept {
  if (!block->untouched()) {
    forget_all(block->uses);
    block->used.store(false, std::memory_order_relaxed);
  }
  bool closed = false;
  MovingBlocks surplus;
  const auto count_returned = [&](ThreadCache& cache) {
    ++cache.returned;
    closed = closed_.load(std::memory_order_relaxed);
  };
  in_cache([&](ThreadCache& cache) {
    if (deferred) {
      cache.counts.recycled += 1;
      cache.counts.in_flight -= block->capacity;
      in_flight_.fetch_sub(1, std::memory_order_relaxed);
    } else {
      count_released(cache.counts, *block);
      cache.counts.freed_at_once += 1;
    }
    const std::size_t limit = block->capacity > size_class::largest_exact ? large_limit() : 0;
    if (!cache.put(block, limit)) [[unlikely]] {
      cache.make_room(*block, surplus);
      if (!cache.put(block, limit)) surplus.push(block);
    }
    if (surplus.empty()) [[likely]]
      count_returned(cache);
  });
  if (!surplus.empty()) [[unlikely]] {
    free_all(surplus);
    // Not before: the block that is still out keeps the heap, its arena and the store from ending meanwhile.
    in_cache(count_returned);
  }
  if (closed) [[unlikely]]
    end_if_all_back();
}

}  // namespace thole::detail
