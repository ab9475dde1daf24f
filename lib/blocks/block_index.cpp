#include "blocks/block_index.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <new>

#include "base/bytes.hpp"
#include "base/immortal.hpp"

namespace thole::inline v0_1::detail {
namespace {

constexpr unsigned leaf_bits = 25, table_bits = 11;  // together the 47 bits of a program's addresses
constexpr std::size_t table_size = std::size_t{1} << table_bits;
constexpr std::size_t leaf_bytes = std::size_t{1} << leaf_bits;
constexpr std::size_t granules = leaf_bytes / granule;
constexpr std::size_t words = granules / 64;
constexpr std::size_t words_a_stripe = 16;  // 64 KiB
constexpr std::size_t stripes = words / words_a_stripe;

/// Its length is here, too: who looks for a foreign address finds a block of somebody else, which may end at any
/// moment.
struct Start {
  std::atomic<Block*> block;
  std::atomic<std::size_t> bytes;
};

/// Made of zeros by calloc, which touches no page of it: most of the pointers are never looked at.
struct Leaf {
  // In this order when a block is put in: its start, the count, the bit, which releases the start.
  std::array<Start, granules> blocks;
  std::array<std::atomic<std::uint64_t>, words> starts;
  std::array<std::atomic<std::uint16_t>, stripes> counts;
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

std::uintptr_t number_of(const void* address) noexcept { return reinterpret_cast<std::uintptr_t>(address); }

/// The child at the place, made where there is none; nullptr when the system has no memory.
template <class Child>
Child* child_of(std::atomic<Child*>& place) noexcept {
  Child* found = place.load(std::memory_order_acquire);  // pairs with the exchange below
  if (found != nullptr) return found;
  auto* const made = static_cast<Child*>(std::calloc(1, sizeof(Child)));
  if (made == nullptr) return nullptr;
  if (place.compare_exchange_strong(found, made, std::memory_order_acq_rel, std::memory_order_acquire)) return made;
  std::free(made);  // another thread was faster
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

struct Place {
  explicit Place(std::uintptr_t address) noexcept : index(address % leaf_bytes / granule) {}
  std::size_t word() const noexcept { return index / 64; }
  std::uint64_t bit() const noexcept { return std::uint64_t{1} << (index % 64); }
  std::size_t stripe() const noexcept { return word() / words_a_stripe; }
  std::size_t index;  // of the granule in its leaf
};

constexpr std::size_t none = granules;

/// The last granule of a stripe where a block starts, up to this one.
std::size_t last_start(const Leaf& leaf, std::size_t stripe, std::size_t up_to) noexcept {
  const std::size_t first = stripe * words_a_stripe;
  for (std::size_t word = std::min(up_to / 64, first + words_a_stripe - 1) + 1; word-- > first;) {
    std::uint64_t starts = leaf.starts[word].load(std::memory_order_acquire);
    if (word == up_to / 64) starts &= ~std::uint64_t{0} >> (63 - up_to % 64);
    if (starts != 0) return word * 64 + 63 - static_cast<unsigned>(std::countl_zero(starts));
  }
  return none;
}

/// The last granule of a leaf where a block starts, up to this one.
std::size_t last_start(const Leaf& leaf, std::size_t up_to) noexcept {
  for (std::size_t stripe = up_to / 64 / words_a_stripe + 1; stripe-- > 0;)
    if (leaf.counts[stripe].load(std::memory_order_relaxed) != 0)
      if (const std::size_t found = last_start(leaf, stripe, up_to); found != none) return found;
  return none;
}

}  // namespace

bool BlockIndex::add(Block& block) noexcept {
  const std::uintptr_t address = number_of(block.data);
  Leaf* const leaf = make_leaf(address);
  if (leaf == nullptr) return false;
  std::size_t longest = root().longest.load(std::memory_order_relaxed);
  while (longest < block.capacity && !root().longest.compare_exchange_weak(longest, block.capacity)) {
  }
  const Place place(address);
  leaf->blocks[place.index].bytes.store(block.capacity, std::memory_order_relaxed);
  leaf->blocks[place.index].block.store(&block, std::memory_order_relaxed);
  leaf->counts[place.stripe()].fetch_add(1, std::memory_order_relaxed);
  leaf->starts[place.word()].fetch_or(place.bit(), std::memory_order_release);
  return true;
}

Block* BlockIndex::at(const void* address) noexcept {
  const Leaf* const leaf = number_of(address) % granule != 0 ? nullptr : find_leaf(number_of(address));
  return leaf == nullptr ? nullptr
                         : leaf->blocks[Place(number_of(address)).index].block.load(std::memory_order_acquire);
}

Block* BlockIndex::remove(const void* address) noexcept {
  if (number_of(address) % granule != 0) return nullptr;
  Leaf* const leaf = find_leaf(number_of(address));
  if (leaf == nullptr) return nullptr;
  const Place place(number_of(address));
  std::atomic<Block*>& found = leaf->blocks[place.index].block;
  if (found.load(std::memory_order_relaxed) == nullptr) return nullptr;
  Block* const block = found.exchange(nullptr, std::memory_order_acq_rel);
  if (block == nullptr) return nullptr;
  leaf->starts[place.word()].fetch_and(~place.bit(), std::memory_order_relaxed);
  leaf->counts[place.stripe()].fetch_sub(1, std::memory_order_relaxed);
  return block;
}

Block* BlockIndex::around(const void* address) noexcept {
  const std::uintptr_t wanted = number_of(address);
  const std::size_t longest = root().longest.load(std::memory_order_relaxed);
  std::size_t up_to = Place(wanted).index;
  for (std::uintptr_t at = wanted; wanted - at < longest + leaf_bytes; up_to = granules - 1) {
    // No leaf: no block has ever started in it. A block may still reach over it from below.
    if (const Leaf* const leaf = find_leaf(at); leaf != nullptr)
      if (const std::size_t found = last_start(*leaf, up_to); found != none) {
        const Start& start = leaf->blocks[found];
        const std::uintptr_t begin = at / leaf_bytes * leaf_bytes + found * granule;
        return wanted - begin < start.bytes.load(std::memory_order_relaxed)
                   ? start.block.load(std::memory_order_relaxed)
                   : nullptr;
      }
    if (at < leaf_bytes) break;
    at -= leaf_bytes;
  }
  return nullptr;
}

}  // namespace thole::inline v0_1::detail
