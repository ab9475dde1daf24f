#include "heap/heap_core.hpp"

#include <algorithm>
#include <array>
#include <new>
#include <utility>

#include "base/immortal.hpp"
#include "base/trace_log.hpp"
#include "heap/thread_cache_table.hpp"
#include "streams/cross_device.hpp"
#include "streams/part_blocks.hpp"
#include "streams/watcher.hpp"

namespace thole::inline v0_1::detail {

namespace {

// Counts on in a forked child, so that no heap of the child's has the index of one of the parent's.
constinit std::atomic<std::uint32_t> next_index{0};

std::size_t waste_of(const Block& block) noexcept { return block.capacity - block.asked_bytes; }

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

HeapCore* HeapCore::open(std::shared_ptr<ArenaCore> arena, const HeapSettings& settings) {
  HeapCore* heap = immortal<Pool>().take();
  if (heap == nullptr) {
    heap = new HeapCore;
    heap->index_ = next_index.fetch_add(1, std::memory_order_relaxed);
  }
  {
    const std::scoped_lock lock(heap->mutex_);
    heap->peak_bytes.reset();
    heap->peak_in_flight.reset();
    heap->arena_ = arena;
    heap->device_ = arena->device().get();
    heap->alignment_ = settings.alignment;
    heap->background_reclaim_ = settings.background_reclaim;
    heap->of_one_block_ = settings.of_one_block;
    heap->quota_.begin(settings.max_bytes);
    heap->process_ = this_process();
    heap->closed_.store(false, std::memory_order_relaxed);
    heap->out_.store(0, std::memory_order_relaxed);
    heap->held_.store(0, std::memory_order_relaxed);
    heap->for_each_cache([heap, limited = settings.max_bytes != 0](ThreadCache& cache) {
      cache.counts = {};
      cache.returned = cache.settled = 0;
      cache.recent.reset();
      cache.quota = limited ? &heap->quota_ : nullptr;
      if (&cache != &heap->spare_) heap->set_capacity(cache);
    });
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
  std::int64_t out = 0;
  bool waits = false;
  {
    const std::scoped_lock lock(mutex_);
    closed_.store(true, std::memory_order_relaxed);
    for_each_cache(
        [&](const ThreadCache& cache) { out += static_cast<std::int64_t>(cache.counts.made - cache.returned); });
    waits = in_flight_.load(std::memory_order_relaxed) != 0;
  }
  // Acquire and release, as in cache_or_free(): what others did to the heap comes before its end.
  if (out_.fetch_add(out, std::memory_order_acq_rel) + out == 0)
    end();
  else if (waits)  // another thread may have ended the heap by now
    watch_all(device);
}

/// Whoever calls this is the only one left.
void HeapCore::end() noexcept {
  std::shared_ptr<ArenaCore> arena;  // may be the last reference, and ends the arena on return
  std::size_t made = 0;
  {
    const std::scoped_lock lock(mutex_);
    Block* lists = nullptr;
    MovingBlocks moving;
    const auto empty = [&](ThreadCache& cache) {
      for (Block* list = cache.take_all(moving); list != nullptr;) {
        Block* const following = list->next_list;
        list->next_list = std::exchange(lists, list);
        list = following;
      }
      made += cache.counts.made;
    };
    for_each_cache(empty);
    free_lists(arena_->store(), lists);
    for (ThreadCache* const list : {caches_, unowned_})
      for (ThreadCache* cache = list; cache != nullptr; cache = cache->next) arena_->remove_keeper(*cache);
    arena = std::exchange(arena_, nullptr);
  }
  arena->remove(this, made);
  immortal<Pool>().give(this);
}

// ---- Caches

/// Under the mutex: calls `f` with each cache that may have counts or blocks, under its lock.
template <class F>
void HeapCore::for_each_cache(F&& f) noexcept {
  for (ThreadCache* cache = caches_; cache != nullptr; cache = cache->next) {
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
  if (of_one_block_) return nullptr;
  ThreadCache* const cache = unowned_ != nullptr ? unowned_ : new (std::nothrow) ThreadCache(this);
  if (cache == nullptr) return nullptr;
  if (cache == unowned_) unowned_ = cache->next;
  cache->previous = nullptr;
  cache->next = caches_;
  if (caches_ != nullptr) caches_->previous = cache;
  caches_ = cache;
  {
    const SpinGuard guard(cache->lock);
    set_capacity(*cache);
    cache->quota = quota_.limited() ? &quota_ : nullptr;
  }
  ThreadCacheTable::set(index_, cache, &HeapCore::abandon_cache);
  return cache;
}

/// The thread that owns the cache ends: its blocks go to the depot, and its counts to the spare cache's.
void HeapCore::abandon_cache(ThreadCache* cache) noexcept {
  HeapCore& heap = *cache->heap;
  MovingBlocks surplus;
  // Held throughout: these blocks count as returned, so that the heap, its arena and the store could end meanwhile.
  const std::scoped_lock lock(heap.mutex_);
  {
    const SpinGuard guard(cache->lock);
    if (heap.arena_ != nullptr) cache->give_all(heap.arena_->depot, surplus);  // else it has none
    heap.spare_.counts.add(cache->counts);
    heap.spare_.returned += std::exchange(cache->returned, 0);
    heap.spare_.settled += std::exchange(cache->settled, 0);
    cache->counts = {};
    cache->recent.reset();
  }
  if (!surplus.empty()) free_blocks(heap.arena_->store(), surplus);
  (cache->previous != nullptr ? cache->previous->next : heap.caches_) = cache->next;
  if (cache->next != nullptr) cache->next->previous = cache->previous;
  cache->next = std::exchange(heap.unowned_, cache);
}

/// Each thread may keep a share of all that the heap may have.
void HeapCore::set_capacity(ThreadCache& cache) const noexcept {
  const std::size_t all = arena_->store().capacity();
  cache.set_capacity(quota_.limited() ? std::min(all, quota_.limit()) : all, all);
}

/// Under the cache's lock, when it has been to the depot or the store: what it has in use and in flight is counted for
/// the peak.
void HeapCore::settle(ThreadCache& cache) noexcept {
  const std::uint64_t share = cache.counts.in_use + cache.counts.in_flight;
  const std::uint64_t more = share - std::exchange(cache.settled, share);
  const auto held = static_cast<std::int64_t>(held_.fetch_add(more, std::memory_order_relaxed) + more);
  if (held > 0) peak_bytes.note(static_cast<std::size_t>(held));
  if (&cache != &spare_) set_capacity(cache);
}

Counters<std::size_t> HeapCore::sum_counts() noexcept {
  Counters<std::size_t> sum;
  const std::scoped_lock lock(mutex_);
  for_each_cache([&](ThreadCache& cache) {
    sum.add(cache.counts);
    if (arena_ != nullptr) settle(cache);
  });
  return sum;
}

bool HeapCore::none_out() noexcept {
  std::uint64_t returned = 0, made = 0;
  const std::scoped_lock lock(mutex_);
  // In this order: each block that is among the returned is among those made later.
  for_each_cache([&](const ThreadCache& cache) { returned += cache.returned; });
  for_each_cache([&](const ThreadCache& cache) { made += cache.counts.made; });
  return made == returned;
}

// ---- Blocks

void HeapCore::count_made(ThreadCache& cache, Block& block, std::size_t asked_bytes) noexcept {
  block.heap.store(this, std::memory_order_relaxed);
  block.asked_bytes = asked_bytes;
  cache.counts.made += 1;
  cache.counts.in_use += block.capacity;
  cache.counts.waste += waste_of(block);
}

Block* HeapCore::take_cached(const Request& request) noexcept {
  Block* block = nullptr;
  in_cache([&](ThreadCache& cache) {
    block = cache.take(request.bytes, request.alignment);
    if (block != nullptr) [[likely]]
      return count_made(cache, *block, request.asked);
    if (&cache == &spare_) return;
    // Before a list leaves the depot: who looks for memory from then on finds the rest of it here.
    if (!cache.is_keeper) arena_->add_keeper(cache);
    block = cache.take_from(arena_->depot, request.bytes, request.alignment);
    if (block == nullptr) return;
    count_made(cache, *block, request.asked);
    settle(cache);
  });
  return block;
}

Block* HeapCore::take_from_others(const Request& request) noexcept {
  MovingBlocks moving;
  if (quota_.limited()) {
    moving.begin();
    if (!quota_.take(request.bytes)) {
      request.refused = true;
      moving.cancel();
      return nullptr;
    }
  }
  Block* block = arena_->take_from_keepers(request.bytes, request.alignment, moving);
  if (quota_.limited() && !count_taken(request.bytes, &block, block != nullptr ? 1 : 0)) return nullptr;
  if (block == nullptr) moving.cancel();
  if (block != nullptr) in_cache([&](ThreadCache& cache) { count_made(cache, *block, request.asked); });
  return block;
}

/// Of `taken` bytes of the quota the heap needs as many as the blocks have. False: those are more than there are, and
/// the blocks, and the bytes, are given back.
bool HeapCore::count_taken(std::size_t taken, Block** blocks, std::size_t count) noexcept {
  std::size_t sum = 0;
  for (std::size_t i = 0; i != count; ++i) sum += blocks[i]->capacity;
  if (sum <= taken) {
    quota_.give(taken - sum);
    return true;
  }
  if (quota_.take(sum - taken)) return true;
  arena_->store().free_batch(blocks, count);
  quota_.give(taken);
  return false;
}

Block* HeapCore::take_from_store(const Request& request, bool leftovers) noexcept {
  arena_->flush_if_idle(request.bytes);
  std::array<Block*, 16> blocks;
  std::size_t wanted = request.alignment > alignment_ ? 1 : size_class::batch(request.bytes);
  MovingBlocks rest;
  if (wanted > 1 || quota_.limited()) rest.begin();
  if (quota_.limited()) {
    if (wanted != 1 && !quota_.take(wanted * request.bytes)) wanted = 1;
    if (wanted == 1 && !quota_.take(request.bytes)) {
      request.refused = true;
      rest.cancel();
      return nullptr;
    }
  }
  const std::size_t taken = wanted * request.bytes;
  std::size_t got = arena_->store().allocate_batch(request.bytes, request.alignment, blocks.data(), wanted, leftovers);
  // What goes back to the store has arrived there: who looked meanwhile has missed it.
  if (quota_.limited() && !count_taken(taken, blocks.data(), got)) return nullptr;
  if (got <= 1) rest.cancel();
  if (got == 0) return nullptr;
  Block* const block = blocks[0];
  in_cache([&](ThreadCache& cache) {
    count_made(cache, *block, request.asked);
    settle(cache);
    if (got > 1 && !cache.is_keeper && &cache != &spare_) arena_->add_keeper(cache);
    while (got > 1 && cache.put(blocks[got - 1])) --got;
  });
  if (got > 1) {
    for (std::size_t i = 1; quota_.limited() && i != got; ++i) quota_.give(blocks[i]->capacity);
    arena_->store().free_batch(blocks.data() + 1, got - 1);
  }
  return block;
}

void HeapCore::take_made(Block& block, std::size_t asked_bytes) noexcept {
  in_cache([&](ThreadCache& cache) {
    count_made(cache, block, asked_bytes);
    settle(cache);
  });
}

void HeapCore::flush_caches() noexcept {
  MovingBlocks moving;
  Block* all = nullptr;
  const std::scoped_lock lock(mutex_);
  for_each_cache([&](ThreadCache& cache) {
    Block* lists = cache.take_all(moving);
    while (Block* const list = lists) {
      lists = list->next_list;
      list->next_list = std::exchange(all, list);
    }
  });
  free_lists(arena_->store(), all);
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
  if (block->is_part) [[unlikely]] {
    block = end_part(block);
    if (block == nullptr) return;
  }
  OpenUse open;
  if (std::size_t first = 0; block->untouched() || !next_open(block->uses, Against::everything, first, open))
      [[likely]] {
    if (tracing()) [[unlikely]]
      trace("drop", block->capacity);
    return cache_or_free(block, false);
  }
  trace("drop in flight", block->capacity, open.timeline->native());
  retire(block, open, [&](ThreadCache& cache) {
    count_released(cache.counts, *block);
    cache.counts.deferred += 1;
    cache.counts.in_flight += block->capacity;
    arena_->in_flight.add(block->capacity);
    peak_in_flight.note(in_flight_.fetch_add(1, std::memory_order_relaxed) + 1);
    cache.note_recent(open.timeline);
  });
}

void HeapCore::reclaim(Block* block) noexcept {
  OpenUse open;
  if (std::size_t first = 0; next_open(block->uses, Against::everything, first, open))
    return retire(block, open, [](ThreadCache&) {});
  trace("reclaim", block->capacity);
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
    keenly = background_reclaim_;
    block->wait_position = use.position;
    // Under the lock, as are the counts: close() finds the block on the stream and has that watched, or `closed` is
    // true here. It is the last that happens to the block here: whoever finds it may have it back before this returns.
    use.timeline->retire(block);
  });
  if (closed || (keenly && !is_watched(*device))) watch(device, keenly);
}

void HeapCore::cache_or_free(Block* block, bool deferred) noexcept {
  if (!block->untouched()) {
    forget_all(block->uses);
    block->used.store(false, std::memory_order_relaxed);
  }
  bool closed = false;
  MovingBlocks surplus;
  const auto count_returned = [&](ThreadCache& cache) {
    closed = closed_.load(std::memory_order_relaxed);
    if (!closed) [[likely]]
      ++cache.returned;
  };
  in_cache([&](ThreadCache& cache) {
    if (deferred) {
      cache.counts.recycled += 1;
      cache.counts.in_flight -= block->capacity;
      in_flight_.fetch_sub(1, std::memory_order_relaxed);
      arena_->in_flight.add(-block->capacity);
    } else {
      count_released(cache.counts, *block);
      cache.counts.freed_at_once += 1;
    }
    if (!cache.put(block)) [[unlikely]] {
      settle(cache);
      cache.put_slowly(block, arena_->depot, surplus);
    }
    if (!cache.is_keeper && &cache != &spare_) [[unlikely]]
      arena_->add_keeper(cache);
    if (surplus.empty()) [[likely]]
      count_returned(cache);
  });
  if (!surplus.empty()) [[unlikely]] {
    free_blocks(arena_->store(), surplus);
    // Not before: the block that is still out keeps the heap, its arena and the store from ending meanwhile.
    in_cache(count_returned);
  }
  if (closed && out_.fetch_sub(1, std::memory_order_acq_rel) == 1) [[unlikely]]
    end();
}

}  // namespace thole::inline v0_1::detail
