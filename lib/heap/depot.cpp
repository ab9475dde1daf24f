#include "heap/depot.hpp"

#include <algorithm>
#include <utility>

namespace thole::inline v0_1::detail {

namespace {

/// Gives the blocks that `next()` returns until it returns nullptr.
template <class F>
void free_each(Store& store, F&& next) noexcept {
  std::array<Block*, 64> some;
  for (bool more = true; more;) {
    std::size_t count = 0;
    while (count != some.size() && (some[count] = next()) != nullptr) ++count;
    more = count == some.size();
    if (count != 0) store.free_batch(some.data(), count);
  }
}

}  // namespace

BlockRun Depot::pop(Class& at) noexcept {
  Block* const first = at.first.load(std::memory_order_relaxed);
  if (first == nullptr) return {};
  // Before the list is gone: who looks for memory, and finds none here without the lock, sees that something left.
  at.count_move();
  at.first.store(first->next_list, std::memory_order_release);
  first->next_list = nullptr;
  --at.lists;
  return {first, first->list_length};
}

/// Without a lock, since it may look at each block: another thread has written them last.
void Depot::count_gone(const BlockRun& list, std::size_t index) noexcept {
  bytes_.fetch_sub(list.bytes(index), std::memory_order_relaxed);
}

void Depot::give(BlockRun list, std::size_t index, MovingBlocks& surplus) noexcept {
  constexpr std::size_t looks = 16;
  constexpr std::uint32_t most_lists = 256;  // of a class, so that who empties it is done in less than a millisecond
  // Each block that is kept is a hole that cannot join its neighbours, which costs the more the fuller the arena is: on
  // an inference server's trace a sixteenth of the arena made it need 1.27 times its bytes alive, this 1.21.
  const std::size_t most = (store_.capacity() - std::min(store_.capacity(), store_.handed_out())) / 16;
  const std::size_t more = list.bytes(index);
  const auto give_up = [&surplus](BlockRun old) {
    while (Block* const block = old.first) {
      old.first = block->next;
      surplus.push(block);
    }
  };
  const auto give_up_one_of = [&](std::size_t at) {
    BlockRun old;
    {
      const SpinGuard guard(classes_[at].lock);
      old = pop(classes_[at]);
      if (!old.empty()) surplus.begin();
    }
    count_gone(old, at);
    give_up(old);
  };
  // Lists of classes that are not used any more go in their turn, so that they do not keep others out for ever.
  for (std::size_t i = 0; i != looks && bytes() + more > most; ++i) {
    const std::size_t at = hand_.fetch_add(1, std::memory_order_relaxed) % size_class::count;
    if (at == index || classes_[at].first.load(std::memory_order_relaxed) == nullptr) continue;
    give_up_one_of(at);
    break;
  }
  if (bytes() + more > most) return give_up(list);
  list.first->list_length = static_cast<std::uint8_t>(list.length);
  bytes_.fetch_add(more, std::memory_order_relaxed);
  bool too_many = false;
  {
    const SpinGuard guard(classes_[index].lock);
    too_many = ++classes_[index].lists > most_lists;
    list.first->next_list = classes_[index].first.load(std::memory_order_relaxed);
    classes_[index].first.store(list.first, std::memory_order_relaxed);
    classes_[index].count_move();
  }
  if (too_many) give_up_one_of(index);
}

BlockRun Depot::take(std::size_t index, std::size_t bytes, std::size_t alignment, std::uint32_t most) noexcept {
  Class& at = classes_[index];
  if (at.first.load(std::memory_order_relaxed) == nullptr) return {};
  BlockRun list;
  {
    const SpinGuard guard(at.lock);
    const Block* const first = at.first.load(std::memory_order_relaxed);
    if (first == nullptr || first->list_length > most || !size_class::fits(first->capacity, bytes) ||
        !is_aligned(first->data, alignment))
      return {};
    list = pop(at);
  }
  count_gone(list, index);
  return list;
}

void Depot::flush() noexcept {
  for (std::size_t index = 0; index != size_class::count; ++index) {
    if (classes_[index].first.load(std::memory_order_acquire) == nullptr) continue;  // pairs with pop(), and below
    MovingBlocks moving;
    Block* lists = nullptr;
    {
      const SpinGuard guard(classes_[index].lock);
      moving.begin();
      lists = classes_[index].first.exchange(nullptr, std::memory_order_release);
      classes_[index].lists = 0;
    }
    // Before they are anybody's again.
    std::size_t sum = 0;
    for (const Block* list = lists; list != nullptr; list = list->next_list)
      sum += BlockRun{const_cast<Block*>(list), list->list_length}.bytes(index);
    bytes_.fetch_sub(sum, std::memory_order_relaxed);
    free_lists(store_, lists);
  }
}

void free_lists(Store& store, Block* lists) noexcept {
  Block* block = nullptr;
  free_each(store, [&]() -> Block* {
    if (block == nullptr) block = std::exchange(lists, lists != nullptr ? lists->next_list : nullptr);
    return std::exchange(block, block != nullptr ? block->next : nullptr);
  });
}

void free_blocks(Store& store, MovingBlocks& blocks) noexcept {
  free_each(store, [&blocks] { return blocks.pop(); });
}

}  // namespace thole::inline v0_1::detail
