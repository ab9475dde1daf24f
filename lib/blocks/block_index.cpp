#include "blocks/block_index.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <utility>

#include "base/bytes.hpp"
#include "base/immortal.hpp"
#include "base/spin_lock.hpp"
#include "blocks/block_pool.hpp"

namespace thole::inline v0_1::detail {
namespace {

constexpr unsigned stripe_bits = 16, leaf_bits = 25, table_bits = 11;  // leaves and tables: 47 bits of addresses
constexpr std::size_t table_size = std::size_t{1} << table_bits;
constexpr std::size_t stripe_bytes = std::size_t{1} << stripe_bits;
constexpr std::size_t leaf_bytes = std::size_t{1} << leaf_bits;
constexpr std::size_t stripes_a_leaf = leaf_bytes / stripe_bytes;

/// Of a program's addresses, as a number.
std::uintptr_t number_of(const void* address) noexcept { return reinterpret_cast<std::uintptr_t>(address); }

constexpr std::size_t places_of(unsigned width_bits) noexcept { return stripe_bytes >> width_bits; }
constexpr std::size_t table_bytes(unsigned width_bits) noexcept { return places_of(width_bits) * sizeof(Block*); }

Block** new_table(unsigned width_bits) noexcept {
  if (!may_keep_records(table_bytes(width_bits))) return nullptr;
  auto* const made = static_cast<Block**>(std::calloc(places_of(width_bits), sizeof(Block*)));
  if (made == nullptr) no_more_records(table_bytes(width_bits));
  return made;
}
void free_table(Block** table, unsigned width_bits) noexcept {
  if (table == nullptr) return;
  std::free(table);
  no_more_records(table_bytes(width_bits));
}

/// Made of zeros by calloc. A block in a table stays what it is as long as the lock is held.
class Stripe {
 public:
  /// False: no memory for the table that the block needs.
  bool add(Block& block) noexcept {
    const unsigned needed =
        std::min<unsigned>(static_cast<unsigned>(std::bit_width<std::size_t>(block.capacity)) - 1, stripe_bits);
    if (put_in(block, needed)) return true;
    Block** table = new_table(needed);  // without the lock, which is for moments
    if (table == nullptr) return false;
    unsigned width = needed;
    {
      const SpinGuard guard(lock_);
      if (!fits(needed)) {
        for (std::size_t i = 0; table_ != nullptr && i != places_of(width_bits_); ++i)
          if (Block* const moved = table_[i]; moved != nullptr) table[place(moved->data, width)] = moved;
        std::swap(table, table_);
        std::swap(width, width_bits_);
      }
      put(block);
    }
    free_table(table, width);
    return true;
  }
  Block* at(const void* address, const HeapCore* heap) noexcept {
    const SpinGuard guard(lock_);
    return find(address, heap);
  }
  Block* remove(const void* address, const HeapCore* heap) noexcept {
    const SpinGuard guard(lock_);
    Block* const block = find(address, heap);
    if (block == nullptr) return nullptr;
    table_[place(address, width_bits_)] = nullptr;
    blocks_.store(blocks_.load(std::memory_order_relaxed) - 1, std::memory_order_relaxed);
    return block;
  }
  /// Whether a block starts at or before the address, which may lie behind the stripe. Sets the last one that does, if
  /// the address lies in it and it is that heap's.
  bool has_start_until(const std::byte* address, bool behind, const HeapCore* heap, Block** found) noexcept {
    if (blocks_.load(std::memory_order_relaxed) == 0) return false;  // the one that is looked for has been put in
    const SpinGuard guard(lock_);
    if (table_ == nullptr) return false;
    for (std::size_t i = behind ? places_of(width_bits_) : place(address, width_bits_) + 1; i-- != 0;) {
      Block* const block = table_[i];
      if (block == nullptr || block->data > address) continue;
      const bool contains = static_cast<std::size_t>(address - block->data) < block->capacity;
      if (contains && is_of(*block, heap)) *found = block;
      return true;
    }
    return false;
  }
  void trim() noexcept {
    Block** table = nullptr;
    unsigned width = 0;
    {
      const SpinGuard guard(lock_);
      if (blocks_.load(std::memory_order_relaxed) != 0) return;
      table = std::exchange(table_, nullptr);
      width = width_bits_;
    }
    free_table(table, width);
  }

 private:
  static std::size_t place(const void* address, unsigned width_bits) noexcept {
    return number_of(address) % stripe_bytes >> width_bits;
  }
  // Under the lock.
  bool fits(unsigned needed) const noexcept { return table_ != nullptr && width_bits_ <= needed; }
  void put(Block& block) noexcept {
    table_[place(block.data, width_bits_)] = &block;
    blocks_.store(blocks_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  }
  static bool is_of(const Block& block, const HeapCore* heap) noexcept {
    return block.heap.load(std::memory_order_relaxed) == heap;
  }
  Block* find(const void* address, const HeapCore* heap) const noexcept {
    Block* const block = table_ != nullptr ? table_[place(address, width_bits_)] : nullptr;
    return block != nullptr && block->data == address && is_of(*block, heap) ? block : nullptr;
  }

  bool put_in(Block& block, unsigned needed) noexcept {
    const SpinGuard guard(lock_);
    if (fits(needed)) put(block);
    return fits(needed);
  }

  SpinLock lock_;
  std::atomic<std::uint32_t> blocks_;  // written under the lock; relaxed: who looks for one knows that it is here
  Block** table_;
  unsigned width_bits_;  // of a place of the table
};

struct Leaf {
  std::array<Stripe, stripes_a_leaf> stripes;
};

template <class Child>
struct Table {
  std::array<std::atomic<Child*>, table_size> children{};
};
using Leaves = Table<Leaf>;
using Root = Table<Leaves>;

struct Index : Root {
  std::atomic<std::size_t> longest{0};  // bytes of the largest block that was ever here: how far around() looks
};
Index& root() noexcept { return immortal<Index>(); }

/// The child at the place, made where there is none; nullptr when there is no memory for it. It stays.
template <class Child>
Child* child_of(std::atomic<Child*>& place) noexcept {
  Child* found = place.load(std::memory_order_acquire);  // pairs with the exchange below
  if (found != nullptr) return found;
  if (!may_keep_records(sizeof(Child))) return nullptr;
  auto* const made = static_cast<Child*>(std::calloc(1, sizeof(Child)));
  if (made != nullptr &&
      place.compare_exchange_strong(found, made, std::memory_order_acq_rel, std::memory_order_acquire))
    return made;
  std::free(made);  // another thread was faster
  no_more_records(sizeof(Child));
  return found;
}

Leaf* find_leaf(std::uintptr_t address) noexcept {
  const std::size_t top = address >> (leaf_bits + table_bits);
  if (top >= table_size) return nullptr;
  Leaves* const leaves = root().children[top].load(std::memory_order_acquire);
  return leaves == nullptr ? nullptr
                           : leaves->children[(address >> leaf_bits) % table_size].load(std::memory_order_acquire);
}

Leaf* make_leaf(std::uintptr_t address) noexcept {
  const std::size_t top = address >> (leaf_bits + table_bits);
  if (top >= table_size) return nullptr;
  Leaves* const leaves = child_of(root().children[top]);
  return leaves == nullptr ? nullptr : child_of(leaves->children[(address >> leaf_bits) % table_size]);
}

std::size_t stripe_of(std::uintptr_t address) noexcept { return address % leaf_bytes / stripe_bytes; }

Stripe* find_stripe(const void* address) noexcept {
  Leaf* const leaf = find_leaf(number_of(address));
  return leaf == nullptr ? nullptr : &leaf->stripes[stripe_of(number_of(address))];
}

}  // namespace

bool BlockIndex::add(Block& block) noexcept {
  Leaf* const leaf = make_leaf(number_of(block.data));
  if (leaf == nullptr) return false;
  std::size_t longest = root().longest.load(std::memory_order_relaxed);
  while (longest < block.capacity && !root().longest.compare_exchange_weak(longest, block.capacity)) {
  }
  return leaf->stripes[stripe_of(number_of(block.data))].add(block);
}

Block* BlockIndex::at(const void* address, const HeapCore* heap) noexcept {
  Stripe* const stripe = find_stripe(address);
  return stripe == nullptr ? nullptr : stripe->at(address, heap);
}

Block* BlockIndex::remove(const void* address, const HeapCore* heap) noexcept {
  Stripe* const stripe = find_stripe(address);
  return stripe == nullptr ? nullptr : stripe->remove(address, heap);
}

Block* BlockIndex::around(const void* address, const HeapCore* heap) noexcept {
  const auto* const wanted = static_cast<const std::byte*>(address);
  const std::size_t longest = root().longest.load(std::memory_order_relaxed);
  for (std::uintptr_t at = number_of(address); number_of(address) - at < longest + leaf_bytes; at -= leaf_bytes) {
    // No leaf: no block has ever started in it. A block may still reach over it from below.
    Leaf* const leaf = find_leaf(at);
    for (std::size_t i = leaf == nullptr ? 0 : stripe_of(at) + 1; i-- != 0;) {
      Block* block = nullptr;
      const bool behind = at != number_of(address) || i != stripe_of(at);
      if (leaf->stripes[i].has_start_until(wanted, behind, heap, &block)) return block;
    }
    if (at < leaf_bytes) break;
    at |= leaf_bytes - 1;  // of the next one below the last stripe is the first
  }
  return nullptr;
}

void BlockIndex::trim() noexcept {
  for (auto& top : root().children)
    if (Leaves* const leaves = top.load(std::memory_order_acquire); leaves != nullptr)
      for (auto& child : leaves->children)
        if (Leaf* const leaf = child.load(std::memory_order_acquire); leaf != nullptr)
          for (Stripe& stripe : leaf->stripes) stripe.trim();
}

void BlockIndex::trim(const std::byte* data, std::size_t bytes) noexcept {
  const std::uintptr_t end = number_of(data) + bytes;
  for (std::uintptr_t at = number_of(data); at < end;) {
    Leaf* const leaf = find_leaf(at);
    if (leaf != nullptr) leaf->stripes[stripe_of(at)].trim();
    const std::size_t step = leaf != nullptr ? stripe_bytes : leaf_bytes;
    at = at / step * step + step;
  }
}

}  // namespace thole::inline v0_1::detail
