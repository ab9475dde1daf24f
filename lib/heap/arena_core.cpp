#include "heap/arena_core.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include "memory/extents.hpp"
#include "streams/stream_registry.hpp"

namespace thole::inline v0_1::detail {

void ArenaCore::add(HeapCore* heap) {
  const std::scoped_lock lock(mutex_);
  heaps_.push_back(heap);
}

void ArenaCore::remove(HeapCore* heap, std::size_t made) noexcept {
  const std::scoped_lock lock(mutex_);
  std::erase(heaps_, heap);
  made_by_ended_heaps_ += made;
}

// ---- Keepers

/// Calls `f` with each keeper, under no lock but the list's, until it returns false.
template <class F>
void ArenaCore::visit_keepers(F&& f) const noexcept {
  const std::scoped_lock lock(keepers_mutex_);
  for (ThreadCache* cache = new_keepers_.take_all(); cache != nullptr;) {
    ThreadCache* const following = cache->next_keeper;
    cache->previous_keeper = nullptr;
    cache->next_keeper = keepers_;
    if (keepers_ != nullptr) keepers_->previous_keeper = cache;
    keepers_ = cache;
    cache = following;
  }
  for (ThreadCache* cache = keepers_; cache != nullptr;) {
    ThreadCache* const following = cache->next_keeper;
    if (!f(*cache)) break;
    cache = following;
  }
}

/// Under the mutex of the list and the cache's lock.
void ArenaCore::unlink(ThreadCache& cache) const noexcept {
  (cache.previous_keeper != nullptr ? cache.previous_keeper->next_keeper : keepers_) = cache.next_keeper;
  if (cache.next_keeper != nullptr) cache.next_keeper->previous_keeper = cache.previous_keeper;
  cache.is_keeper = false;
}

void ArenaCore::remove_keeper(ThreadCache& cache) noexcept {
  visit_keepers([](ThreadCache&) { return false; });  // those on their way are in the list then
  const std::scoped_lock lock(keepers_mutex_);
  const SpinGuard guard(cache.lock);
  if (cache.is_keeper) unlink(cache);
}

Block* ArenaCore::take_from_keepers(std::size_t bytes, std::size_t alignment, MovingBlocks& moving) noexcept {
  Block* block = nullptr;
  visit_keepers([&](ThreadCache& cache) {
    const SpinGuard guard(cache.lock);
    block = cache.take(bytes, alignment);
    if (block != nullptr) moving.begin();
    if (block != nullptr && cache.quota != nullptr) cache.quota->give(block->capacity);
    return block == nullptr;
  });
  return block;
}

void ArenaCore::flush() noexcept {
  large_takes_.store(0, std::memory_order_relaxed);
  next_look_.store(0, std::memory_order_relaxed);
  MovingBlocks moving;
  Block* all = nullptr;
  visit_keepers([&](ThreadCache& cache) {
    const SpinGuard guard(cache.lock);
    Block* lists = cache.take_all(moving);
    while (Block* const list = lists) {
      lists = list->next_list;
      list->next_list = std::exchange(all, list);
    }
    unlink(cache);
    return true;
  });
  free_lists(*store_, all);
  depot.flush();
}

void ArenaCore::flush_if_idle(std::size_t bytes) noexcept {
  constexpr std::size_t takes_between = 64, most_keepers = 16;
  if (bytes < std::min(Extents::whole_pages_from, store_->capacity() / 32)) return;
  const std::size_t takes = large_takes_.fetch_add(1, std::memory_order_relaxed);
  if (takes < next_look_.load(std::memory_order_relaxed)) return;
  if (takes < takes_between && bytes < store_->capacity() / 64) return;
  const std::size_t out = store_->handed_out();
  std::size_t kept = depot.bytes();
  std::size_t keepers = 0;
  if (out != 0)
    visit_keepers([&](const ThreadCache& cache) {
      kept += cache.bytes();
      return kept < out && ++keepers != most_keepers;
    });
  // Too many to look at each time.
  if (keepers == most_keepers) next_look_.store(takes + most_keepers, std::memory_order_relaxed);
  if (kept != out) return;
  if (out != 0) flush();
  store_->lend_back();
}

std::size_t ArenaCore::kept_bytes() const noexcept {
  std::size_t sum = depot.bytes();
  visit_keepers([&](const ThreadCache& cache) {
    sum += cache.bytes();
    return true;
  });
  return sum;
}

bool ArenaCore::is_held() const noexcept {
  const std::scoped_lock lock(mutex_);
  // Each heap has one, which lives on while blocks of it are out, and so does who asks.
  return static_cast<std::size_t>(weak_from_this().use_count()) > heaps_.size() + 1;
}

bool ArenaCore::is_busy() const noexcept { return !device_->lost() && device_->streams->has_work(); }

std::size_t ArenaCore::trim_idle(std::chrono::steady_clock::time_point now, std::chrono::nanoseconds age) noexcept {
  if (!store_->has_grown()) return 0;
  flush();
  return store_->trim_idle(now, age);
}

Error of_another_process_error(const char* call) {
  return Error::make(Errc::device_lost,
                     [&] { return std::string(call) + ": made by another process, which this one was forked from"; });
}

}  // namespace thole::inline v0_1::detail
