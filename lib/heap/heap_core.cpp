#include "heap/heap_core.hpp"

#include <array>
#include <new>

#include "heap/thread_cache_table.hpp"
#include "streams/cross_device.hpp"
#include "streams/uses.hpp"
#include "streams/watcher.hpp"

namespace thole::detail {

namespace {

/// To the stores that the blocks came from; all of one heap's come from one.
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

void count_let_go(Counts& counts, const Block& block) noexcept {
  counts.let_go.add(1);
  counts.let_go_bytes.add(block.capacity);
  counts.let_go_waste.add(block.capacity - block.asked_bytes.load(std::memory_order_relaxed));
}

}  // namespace

// HeapCores that serve no heap. Never destroyed: buffers may be dropped after main.
class HeapPool {
 public:
  static HeapPool& get() noexcept {
    static auto* const made = new HeapPool;
    return *made;
  }
  HeapCore* take() {
    const std::scoped_lock lock(mutex_);
    if (free_ != nullptr) {
      HeapCore* const heap = free_;
      free_ = heap->next_;
      return heap;
    }
    auto* const heap = new HeapCore;
    heap->index_ = count_++;
    return heap;
  }
  void give(HeapCore* heap) noexcept {
    const std::scoped_lock lock(mutex_);
    heap->next_ = free_;
    free_ = heap;
  }

 private:
  std::mutex mutex_;
  HeapCore* free_ = nullptr;
  std::uint32_t count_ = 0;
};

// ---- Life

HeapCore* HeapCore::open(std::shared_ptr<ArenaCore> arena, std::size_t alignment, bool background_reclaim) {
  HeapCore* const heap = HeapPool::get().take();
  try {
    arena->add(heap);
  } catch (...) {
    HeapPool::get().give(heap);
    throw;
  }
  const std::scoped_lock lock(heap->mutex_);
  heap->for_each_cache([](ThreadCache& cache) {
    cache.counts.reset();
    cache.returned = 0;
    cache.recent.reset();
  });
  heap->peak = 0;
  heap->most_in_flight = 0;
  heap->in_flight = 0;
  heap->device_ = arena->device().get();
  heap->arena_ = std::move(arena);
  heap->alignment_ = alignment;
  heap->background_reclaim_ = background_reclaim;
  heap->finished_ = false;
  heap->closed_.store(false, std::memory_order_relaxed);
  return heap;
}

namespace {

/// The heap's blocks may wait on any device that uses memory of others.
void watch_all(const std::shared_ptr<DeviceCore>& device) noexcept try {
  watch(device);
  for (const auto& other : devices_used_across(*device)) watch(other);
} catch (const std::bad_alloc&) {
  // What waits there comes back when that device is asked for another reason.
}

}  // namespace

void HeapCore::close() noexcept {
  // Relaxed: the caches' locks, taken next, order it before every put that comes later.
  const std::shared_ptr<DeviceCore> device = arena_->device();
  closed_.store(true, std::memory_order_relaxed);
  const bool waiting = in_flight.load(std::memory_order_relaxed) != 0;
  finish_if_all_back();
  if (waiting) watch_all(device);
}

void HeapCore::finish_if_all_back() noexcept {
  std::shared_ptr<ArenaCore> arena;  // outlives the lock: it may be the last reference
  {
    const std::scoped_lock lock(mutex_);
    // Not closed: the caller speaks of the heap that this object served before. It has ended, and this is the next one.
    if (finished_ || !closed_.load(std::memory_order_relaxed)) return;
    std::uint64_t made = 0;
    std::uint64_t returned = 0;
    MovingBlocks blocks;
    for_each_cache([&](ThreadCache& cache) {
      made += cache.counts.made.get();
      returned += cache.returned;
      cache.give_all(blocks);
    });
    free_all(blocks);
    if (made != returned) return;
    finished_ = true;
    arena = std::move(arena_);
    arena_ = nullptr;
  }
  arena->remove(this);
  HeapPool::get().give(this);
}

// ---- Caches

/// Under the heap's mutex.
template <class F>
void HeapCore::for_each_cache(F&& f) noexcept {
  for (ThreadCache* cache = caches_.load(std::memory_order_acquire); cache != nullptr; cache = cache->next) {
    const SpinGuard guard(cache->lock);
    f(*cache);
  }
  f(spare_);
}

ThreadCache* HeapCore::this_thread_cache() noexcept {
  ThreadCache* const cache = ThreadCacheTable::find(index_);
  return cache != nullptr ? cache : adopt_cache();
}

ThreadCache* HeapCore::adopt_cache() noexcept {
  if (!ThreadCacheTable::prepare(index_)) return nullptr;
  const std::scoped_lock lock(mutex_);
  ThreadCache* cache = caches_.load(std::memory_order_relaxed);
  while (cache != nullptr && cache->owned) cache = cache->next;
  if (cache == nullptr) {
    cache = new (std::nothrow) ThreadCache;
    if (cache == nullptr) return nullptr;
    cache->next = caches_.load(std::memory_order_relaxed);
    caches_.store(cache, std::memory_order_release);
  }
  cache->owned = true;
  ThreadCacheTable::set(index_, this, cache);
  return cache;
}

void HeapCore::abandon_cache(ThreadCache* cache) noexcept {
  MovingBlocks blocks;
  // Held throughout: these blocks count as returned, so that the heap, its arena and the store could end meanwhile.
  const std::scoped_lock lock(mutex_);
  cache->lock.lock();
  cache->give_all(blocks);
  cache->lock.unlock();
  free_all(blocks);
  cache->owned = false;
}

/// Runs `f` with the thread's cache, locked; with the spare one where there is none.
template <class F>
void HeapCore::in_cache(F&& f) noexcept {
  if (ThreadCache* const cache = this_thread_cache(); cache != nullptr) [[likely]] {
    cache->lock.lock();
    f(*cache);
    cache->lock.unlock();
  } else {
    const std::scoped_lock lock(mutex_);
    f(spare_);
  }
}

void HeapCore::flush() noexcept {
  MovingBlocks blocks;
  const std::scoped_lock lock(mutex_);
  for_each_cache([&](ThreadCache& cache) { cache.give_all(blocks); });
  free_all(blocks);
}

// ---- Blocks

void HeapCore::count_made(Counts& counts, Block& block, std::size_t asked_bytes) noexcept {
  block.heap.store(this, std::memory_order_relaxed);
  block.asked_bytes.store(asked_bytes, std::memory_order_relaxed);
  counts.made.add(1);
  counts.made_bytes.add(block.capacity);
  counts.made_waste.add(block.capacity - asked_bytes);
}

Block* HeapCore::take_cached(std::size_t bytes, std::size_t alignment, std::size_t asked_bytes) noexcept {
  Block* block = nullptr;
  in_cache([&](ThreadCache& cache) {
    block = cache.take(bytes, alignment);
    if (block != nullptr) count_made(cache.counts, *block, asked_bytes);
  });
  return block;
}

Block* HeapCore::take_from_others(std::size_t bytes, std::size_t alignment, std::size_t asked_bytes) noexcept {
  Block* block = nullptr;
  const std::scoped_lock lock(mutex_);
  for_each_cache([&](ThreadCache& cache) {
    if (block != nullptr) return;
    block = cache.take(bytes, alignment);
    if (block != nullptr) count_made(cache.counts, *block, asked_bytes);
  });
  return block;
}

Block* HeapCore::take_from_store(std::size_t bytes, std::size_t alignment, std::size_t asked_bytes) noexcept {
  std::array<Block*, 16> blocks;
  const std::size_t wanted = alignment > alignment_ ? 1 : size_class::batch(bytes);
  MovingBlocks rest;
  if (wanted > 1) rest.begin();
  std::size_t got = arena_->store().allocate_batch(bytes, alignment, blocks.data(), wanted);
  if (got <= 1) rest.cancel();
  if (got == 0) return nullptr;
  Block* const block = blocks[0];
  in_cache([&](ThreadCache& cache) {
    count_made(cache.counts, *block, asked_bytes);
    while (got > 1 && cache.put(blocks[got - 1], 0)) --got;
  });
  if (got > 1) arena_->store().free_batch(blocks.data() + 1, got - 1);
  return block;
}

void HeapCore::count_waited() noexcept {
  in_cache([](ThreadCache& cache) { cache.counts.waited.add(1); });
}

std::shared_ptr<Timeline> HeapCore::recent() noexcept {
  std::shared_ptr<Timeline> found;
  in_cache([&](ThreadCache& cache) { found = cache.recent.lock(); });
  return found;
}

void HeapCore::let_go(Block* block) noexcept {
  if (block->untouched()) [[likely]]
    return recycle(block, false);
  OpenUse open;
  if (std::size_t first = 0; !next_open(block->uses, Against::everything, first, open)) return recycle(block, false);
  in_cache([&](ThreadCache& cache) {
    count_let_go(cache.counts, *block);
    cache.counts.deferred_bytes.add(block->capacity);
    cache.note_recent(open.timeline);
  });
  const auto now = in_flight.fetch_add(1, std::memory_order_relaxed) + 1;
  if (now > most_in_flight.load(std::memory_order_relaxed)) most_in_flight.store(now, std::memory_order_relaxed);
  const bool orphan = closed_.load(std::memory_order_relaxed);
  const bool keenly = background_reclaim_;
  block->wait_position = open.position;
  open.timeline->retire(block);  // the heap may end from here on
  if (orphan || (keenly && !open.timeline->device()->watched.load(std::memory_order_relaxed)))
    watch(open.timeline->device(), keenly);
}

void HeapCore::came_back(Block* block) noexcept {
  OpenUse open;
  if (std::size_t first = 0; next_open(block->uses, Against::everything, first, open)) {
    const bool orphan = closed_.load(std::memory_order_relaxed);
    block->wait_position = open.position;
    open.timeline->retire(block);  // the heap may end from here on
    if (orphan) watch(open.timeline->device());
    return;
  }
  in_flight.fetch_sub(1, std::memory_order_relaxed);
  recycle(block, true);
}

void HeapCore::recycle(Block* block, bool deferred) noexcept {
  if (!block->untouched()) {
    forget_all(block->uses);
    block->used.store(false, std::memory_order_relaxed);
  }
  bool closed = false;
  MovingBlocks surplus;
  in_cache([&](ThreadCache& cache) {
    if (deferred) {
      cache.counts.recycled.add(1);
      cache.counts.recycled_bytes.add(block->capacity);
    } else {
      count_let_go(cache.counts, *block);
      cache.counts.at_once.add(1);
    }
    const std::size_t limit = block->capacity > size_class::largest_exact ? large_limit() : 0;
    if (!cache.put(block, limit)) [[unlikely]] {
      cache.make_room(*block, surplus);
      if (!cache.put(block, limit)) surplus.push(block);
    }
    if (!surplus.empty()) [[unlikely]]
      return;
    ++cache.returned;
    // close() takes this lock after it has set the flag: either it finds the block, or this finds the flag.
    closed = closed_.load(std::memory_order_relaxed);
  });
  if (!surplus.empty()) [[unlikely]] {
    free_all(surplus);
    // Not before: the block that is still out keeps the heap, its arena and the store from ending meanwhile.
    in_cache([&](ThreadCache& cache) {
      ++cache.returned;
      closed = closed_.load(std::memory_order_relaxed);
    });
  }
  if (closed) [[unlikely]]
    finish_if_all_back();
}

// ---- Figures

HeapFigures HeapCore::figures(bool with_cached) const noexcept {
  HeapFigures f;
  std::uint64_t made_bytes = 0, let_go = 0, let_go_bytes = 0, deferred_bytes = 0, recycled_bytes = 0;
  std::uint64_t made_waste = 0, let_go_waste = 0;
  const auto add = [&](const Counts& c) {
    f.made += c.made.get();
    f.at_once += c.at_once.get();
    f.recycled += c.recycled.get();
    f.waited += c.waited.get();
    let_go += c.let_go.get();
    made_bytes += c.made_bytes.get();
    let_go_bytes += c.let_go_bytes.get();
    deferred_bytes += c.deferred_bytes.get();
    recycled_bytes += c.recycled_bytes.get();
    made_waste += c.made_waste.get();
    let_go_waste += c.let_go_waste.get();
  };
  add(spare_.counts);
  for (ThreadCache* cache = caches_.load(std::memory_order_acquire); cache != nullptr; cache = cache->next)
    add(cache->counts);
  // Threads go on while this adds up: a difference may be off by what they did meanwhile, but is never shown negative.
  const auto less = [](std::uint64_t a, std::uint64_t b) { return static_cast<std::size_t>(a > b ? a - b : 0); };
  f.deferred = less(let_go, f.at_once);
  f.in_use = less(made_bytes, let_go_bytes);
  f.in_flight = less(deferred_bytes, recycled_bytes);
  f.waste = less(made_waste, let_go_waste);
  if (with_cached) {
    const std::scoped_lock lock(mutex_);
    const_cast<HeapCore*>(this)->for_each_cache([&](ThreadCache& cache) { f.cached += cache.bytes(); });
  }
  return f;
}

void HeapCore::note_peak() noexcept {
  const HeapFigures now = figures(false);
  const std::size_t sum = now.in_use + now.in_flight;
  std::size_t before = peak.load(std::memory_order_relaxed);
  while (before < sum && !peak.compare_exchange_weak(before, sum, std::memory_order_relaxed)) {
  }
}

}  // namespace thole::detail
