#include "heap/thread_cache.hpp"

#include <algorithm>
#include <utility>

namespace thole::inline v0_1::detail {

void ThreadCache::set_capacity(std::size_t capacity, std::size_t arena) noexcept {
  if (capacity == capacity_ && arena == arena_) return;
  capacity_ = capacity;
  arena_ = arena;
  // Each block that is kept is a hole in the arena that cannot join its neighbours: on an inference server's trace,
  // more than a sixty-fourth for each thread costs more than 15 % of the arena. Small arenas have few threads.
  limit_ = std::max(capacity / 64, std::min(capacity / 4, std::size_t{1} << 20));
  // A block of this share of the arena that is kept, and used again where it lies, may cut the arena in two.
  const std::size_t largest = arena / 32;
  for (std::size_t index = 0; index != size_class::count; ++index)
    classes_[index].full_length =
        size_class::smallest(index) > largest ? 0 : static_cast<std::uint32_t>(size_class::list_length(index, limit_));
}

Block* ThreadCache::take_slowly(std::size_t index, std::size_t bytes, std::size_t alignment) noexcept {
  constexpr std::size_t tried = 8;  // of each list, no more
  for (const std::size_t last = size_class::last_to_try(index); index <= last; ++index) {
    Class& at = classes_[index];
    if (at.used.empty() && !at.full.empty()) std::swap(at.used, at.full);
    for (BlockRun* const list : {&at.used, &at.full}) {
      Block** link = &list->first;
      for (std::size_t i = 0; i != tried && *link != nullptr; ++i, link = &(*link)->next)
        if (fits(**link, bytes, alignment)) return take_out(*list, link);
    }
  }
  return nullptr;
}

Block* ThreadCache::take_from(Depot& depot, std::size_t bytes, std::size_t alignment) noexcept {
  std::size_t index = size_class::index(bytes);
  for (const std::size_t last = size_class::last_to_try(index); index <= last; ++index) {
    Class& at = classes_[index];
    BlockRun& place = at.used.empty() ? at.used : at.full;
    if (!place.empty()) continue;
    MovingBlocks moving;
    std::size_t room = 0;
    std::uint32_t most = UINT32_MAX;
    if (quota != nullptr) {
      moving.begin();
      most = at.full_length;
      room = most * size_class::largest(index);
      if (!quota->take(room)) {
        moving.cancel();
        return nullptr;
      }
    }
    place = depot.take(index, bytes, alignment, most);
    const std::size_t came = place.bytes(index);
    count_gone(room - came);
    if (place.empty()) {
      moving.cancel();
      continue;
    }
    bytes_ += came;
    return take_out(place, &place.first);
  }
  return nullptr;
}

/// The full list of the class, or the only one.
BlockRun ThreadCache::take_list(std::size_t index) noexcept {
  Class& at = classes_[index];
  const BlockRun list = std::exchange(at.full.empty() ? at.used : at.full, {});
  bytes_ -= list.bytes(index);
  return list;
}

void ThreadCache::give_list(std::size_t index, Depot& depot, MovingBlocks& surplus) noexcept {
  const std::size_t before = bytes_;
  const BlockRun list = take_list(index);
  if (list.empty()) return;
  count_gone(before - bytes_);
  depot.give(list, index, surplus);
}

void ThreadCache::put_slowly(Block* block, Depot& depot, MovingBlocks& surplus) noexcept {
  const std::size_t own = size_class::index(block->capacity);
  Class& at = classes_[own];
  if (block->capacity > limit_ || at.full_length == 0) {
    count_gone(block->capacity);
    return surplus.push(block);
  }
  if (at.used.length >= at.full_length) {
    if (!at.full.empty()) give_list(own, depot, surplus);
    at.full = std::exchange(at.used, {});
  }
  // Classes that are not used any more make room in their turn.
  constexpr std::size_t looks = 32;
  for (std::size_t i = 0; i != looks && bytes_ + block->capacity > limit_; ++i) {
    hand_ = (hand_ + 1) % size_class::count;
    if (hand_ != own) give_list(hand_, depot, surplus);
  }
  while (bytes_ + block->capacity > limit_ && !(at.used.empty() && at.full.empty())) give_list(own, depot, surplus);
  if (bytes_ + block->capacity > limit_) {
    block->next = nullptr;
    count_gone(block->capacity);
    depot.give({.first = block, .length = 1}, own, surplus);
    return;
  }
  at.used.push(block);
  bytes_ += block->capacity;
}

Block* ThreadCache::take_all(MovingBlocks& moving) noexcept {
  Block* lists = nullptr;
  if (bytes_ == 0) return lists;
  moving.begin();
  count_gone(bytes_);
  for (Class& at : classes_)
    for (BlockRun* const list : {&at.used, &at.full})
      if (Block* const first = std::exchange(*list, {}).first; first != nullptr) {
        first->next_list = lists;
        lists = first;
      }
  bytes_ = {};
  return lists;
}

void ThreadCache::give_all(Depot& depot, MovingBlocks& surplus) noexcept {
  for (std::size_t index = 0; bytes_ != 0 && index != size_class::count; ++index)
    for (int lists = 0; lists != 2; ++lists) give_list(index, depot, surplus);
}

}  // namespace thole::inline v0_1::detail
