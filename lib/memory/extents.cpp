#include "memory/extents.hpp"

#include <bit>
#include <cstdint>

#include "blocks/block_pool.hpp"
#include "memory/region.hpp"

namespace thole::detail {

namespace {

// Once something fits, this many more of its list are looked at for a tighter fit.
constexpr int looks = 32;

// Where `bytes` would lie in a free extent, or nullptr.
std::byte* place(const Block* extent, std::size_t bytes, std::size_t alignment, Extents::End end) noexcept {
  if (extent->capacity < bytes) return nullptr;
  std::byte* const last = extent->data + (extent->capacity - bytes);
  std::byte* const at = end == Extents::End::high ? align_down(last, alignment) : align_up(extent->data, alignment);
  return at >= extent->data && at <= last ? at : nullptr;
}

}  // namespace

unsigned Extents::bin_of(std::size_t bytes) noexcept {
  const std::size_t units = bytes / granule;
  if (units < subs) return static_cast<unsigned>(units);
  const auto power = static_cast<unsigned>(std::bit_width(units)) - 1;
  return (power - 3) * subs + static_cast<unsigned>(units >> (power - 4)) % subs;
}

unsigned Extents::next_bin(unsigned from) const noexcept {
  std::size_t word = from / 64;
  if (word >= used_.size()) return bins;
  std::uint64_t bits = used_[word] & (~std::uint64_t{0} << from % 64);
  while (bits == 0) {
    if (++word == used_.size()) return bins;
    bits = used_[word];
  }
  return static_cast<unsigned>(word * 64) + static_cast<unsigned>(std::countr_zero(bits));
}

void Extents::link(Block* extent) noexcept {
  const unsigned bin = bin_of(extent->capacity);
  extent->is_free = true;
  extent->free_before = nullptr;
  extent->free_after = heads_[bin];
  if (heads_[bin] != nullptr) heads_[bin]->free_before = extent;
  heads_[bin] = extent;
  used_[bin / 64] |= std::uint64_t{1} << bin % 64;
  free_bytes_ += extent->capacity;
}

void Extents::unlink(Block* extent) noexcept {
  const unsigned bin = bin_of(extent->capacity);
  if (extent->free_before != nullptr)
    extent->free_before->free_after = extent->free_after;
  else
    heads_[bin] = extent->free_after;
  if (extent->free_after != nullptr) extent->free_after->free_before = extent->free_before;
  if (heads_[bin] == nullptr) used_[bin / 64] &= ~(std::uint64_t{1} << bin % 64);
  extent->is_free = false;
  extent->free_before = extent->free_after = nullptr;
  free_bytes_ -= extent->capacity;
}

bool Extents::add(Region& region) noexcept {
  Block* const whole = acquire_block();
  if (whole == nullptr) return false;
  whole->data = region.data;
  whole->capacity = region.bytes;
  whole->owner = &region;
  whole->from_mimalloc = false;
  whole->address_before = whole->address_after = nullptr;
  region.lowest = whole;
  link(whole);
  return true;
}

bool Extents::empty(const Region& region) noexcept {
  return region.lowest->is_free && region.lowest->address_after == nullptr;
}

bool Extents::remove(Region& region) noexcept {
  if (!empty(region)) return false;
  unlink(region.lowest);
  release_block(region.lowest);
  region.lowest = nullptr;
  return true;
}

// Cuts [at, at + bytes) out of a free extent. The lowest piece keeps the record, so that Region::lowest never changes.
Block* Extents::carve(Block* extent, std::byte* at, std::size_t bytes) noexcept {
  const auto before = static_cast<std::size_t>(at - extent->data);
  const std::size_t after = extent->capacity - before - bytes;
  Block* const middle = before == 0 ? extent : acquire_block();
  if (middle == nullptr) return nullptr;
  Block* const tail = after == 0 ? nullptr : acquire_block();
  if (after != 0 && tail == nullptr) {
    if (middle != extent) release_block(middle);
    return nullptr;
  }
  unlink(extent);
  Block* const beyond = extent->address_after;
  Block* left = extent;
  auto append = [&left, extent](Block* piece, std::byte* data, std::size_t size) {
    piece->data = data;
    piece->capacity = size;
    piece->owner = extent->owner;
    piece->from_mimalloc = false;
    piece->is_free = false;
    if (piece != left) {
      left->address_after = piece;
      piece->address_before = left;
      left = piece;
    }
  };
  if (before != 0) extent->capacity = before;
  append(middle, at, bytes);
  if (tail != nullptr) append(tail, at + bytes, after);
  left->address_after = beyond;
  if (beyond != nullptr) beyond->address_before = left;
  if (before != 0) link(extent);
  if (tail != nullptr) link(tail);
  return middle;
}

Block* Extents::take(std::size_t bytes, std::size_t alignment, End end) noexcept {
  if (bytes > SIZE_MAX / 2) return nullptr;
  const std::size_t size = rounded(bytes);
  for (unsigned bin = next_bin(bin_of(size)); bin < bins; bin = next_bin(bin + 1)) {
    Block* best = nullptr;
    std::byte* best_at = nullptr;
    int left = looks;
    for (Block* extent = heads_[bin]; extent != nullptr && left > 0; extent = extent->free_after) {
      if (best != nullptr) {
        --left;
        if (extent->capacity >= best->capacity) continue;
      }
      if (std::byte* const at = place(extent, size, alignment, end); at != nullptr) {
        best = extent;
        best_at = at;
        if (extent->capacity == size) break;
      }
    }
    if (best != nullptr) return carve(best, best_at, size);
  }
  return nullptr;
}

Block* Extents::take_range(std::byte* data, std::size_t bytes) noexcept {
  for (unsigned bin = next_bin(bin_of(bytes)); bin < bins; bin = next_bin(bin + 1))
    for (Block* extent = heads_[bin]; extent != nullptr; extent = extent->free_after)
      if (extent->data <= data && data + bytes <= extent->data + extent->capacity) return carve(extent, data, bytes);
  return nullptr;
}

void Extents::give(Block* extent) noexcept {
  if (Block* const after = extent->address_after; after != nullptr && after->is_free) {
    unlink(after);
    extent->capacity += after->capacity;
    extent->address_after = after->address_after;
    if (after->address_after != nullptr) after->address_after->address_before = extent;
    release_block(after);
  }
  if (Block* const before = extent->address_before; before != nullptr && before->is_free) {
    unlink(before);
    before->capacity += extent->capacity;
    before->address_after = extent->address_after;
    if (extent->address_after != nullptr) extent->address_after->address_before = before;
    release_block(extent);
    extent = before;
  }
  link(extent);
}

std::size_t Extents::largest() const noexcept {
  for (std::size_t word = used_.size(); word-- > 0;) {
    if (used_[word] == 0) continue;
    const auto bin = static_cast<unsigned>(word * 64) + 63 - static_cast<unsigned>(std::countl_zero(used_[word]));
    std::size_t most = 0;
    for (const Block* extent = heads_[bin]; extent != nullptr; extent = extent->free_after)
      if (extent->capacity > most) most = extent->capacity;
    return most;
  }
  return 0;
}

}  // namespace thole::detail
