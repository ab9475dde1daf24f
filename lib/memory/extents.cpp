#include "memory/extents.hpp"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <utility>

#include "blocks/block_pool.hpp"
#include "memory/region.hpp"

namespace thole::inline v0_1::detail {

namespace {

// Of extents that may not fit, this many are looked at in all; and once something fits, this many more of its list for
// a tighter fit.
constexpr int few = 32;

// Where `bytes` would lie in a free extent, or nullptr.
std::byte* place(const Block* extent, std::size_t bytes, std::size_t alignment, Extents::End end) noexcept {
  if (extent->capacity < bytes) return nullptr;
  std::byte* const last = extent->data + (extent->capacity - bytes);
  std::byte* const at = end == Extents::End::high ? align_down(last, alignment) : align_up(extent->data, alignment);
  return at >= extent->data && at <= last ? at : nullptr;
}

// Where there is room to choose at the low end, a power of two lies at a multiple of itself in its region, so that
// blocks of one such size leave no gaps between each other, whatever else lay there when they came.
std::byte* naturally(const Block* extent, std::byte* at, std::size_t bytes) noexcept {
  if (!std::has_single_bit(bytes) || bytes < Extents::whole_pages_from) return at;
  std::byte* const start = static_cast<const Region*>(extent->owner)->data;
  std::byte* const natural = start + round_up(static_cast<std::size_t>(at - start), bytes);
  return natural + bytes <= extent->data + extent->capacity ? natural : at;
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
  (heads_[bin] != nullptr ? heads_[bin]->free_before : tails_[bin]) = extent;
  heads_[bin] = extent;
  used_[bin / 64] |= std::uint64_t{1} << bin % 64;
  free_bytes_ += extent->capacity;
  largest_ = std::max<std::size_t>(largest_, extent->capacity);
  count_fitting(*extent, 1);
}

// An extent comes or goes that may have room for what was refused.
void Extents::count_fitting(const Block& extent, int more) noexcept {
  for (std::size_t power = 0; power != refused_.size(); ++power)
    if (Refused& refused = refused_[power];
        extent.capacity >= refused.bytes && place(&extent, refused.bytes, std::size_t{1} << power, End::low) != nullptr)
      refused.fitting += static_cast<std::size_t>(more);
}

void Extents::unlink(Block* extent) noexcept {
  const unsigned bin = bin_of(extent->capacity);
  if (extent->free_before != nullptr)
    extent->free_before->free_after = extent->free_after;
  else
    heads_[bin] = extent->free_after;
  (extent->free_after != nullptr ? extent->free_after->free_before : tails_[bin]) = extent->free_before;
  if (heads_[bin] == nullptr) used_[bin / 64] &= ~(std::uint64_t{1} << bin % 64);
  extent->is_free = false;
  extent->free_before = extent->free_after = nullptr;
  free_bytes_ -= extent->capacity;
  count_fitting(*extent, -1);
  if (extent->capacity == largest_) largest_known_ = false;
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
  static_cast<Region*>(extent->owner)->taken_from = true;
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

// The best fit in the first of the lists [from, to) that has any among the few extents that are looked at.
Extents::Found Extents::find(std::size_t bytes, std::size_t alignment, End end, unsigned from,
                             unsigned to) const noexcept {
  Found best;
  int looks = few;
  for (unsigned bin = next_bin(from); bin < to && looks != 0 && best.extent == nullptr; bin = next_bin(bin + 1))
    for (Block* extent = heads_[bin]; extent != nullptr && looks != 0; extent = extent->free_after, --looks) {
      if (best.extent != nullptr && extent->capacity >= best.extent->capacity) continue;
      std::byte* const at = place(extent, bytes, alignment, end);
      if (at != nullptr) best = {extent, at};
      if (at != nullptr && extent->capacity == bytes) return best;
    }
  return best;
}

// Whatever fits in the lists [from, to). What does not goes to the end of its list.
Extents::Found Extents::find_among_all(std::size_t bytes, std::size_t alignment, End end, unsigned from,
                                       unsigned to) noexcept {
  for (unsigned bin = next_bin(from); bin < to; bin = next_bin(bin + 1))
    for (Block* extent = heads_[bin]; extent != nullptr; extent = extent->free_after)
      if (std::byte* const at = place(extent, bytes, alignment, end); at != nullptr) {
        if (Block* const last = extent->free_before; last != nullptr) {
          tails_[bin]->free_after = heads_[bin];
          heads_[bin]->free_before = std::exchange(tails_[bin], last);
          heads_[bin] = extent;
          extent->free_before = last->free_after = nullptr;
        }
        return {extent, at};
      }
  return {};
}

Block* Extents::take(std::size_t bytes, std::size_t alignment, End end) noexcept {
  if (bytes > SIZE_MAX / 2) return nullptr;
  const std::size_t size = rounded(bytes);
  Refused& refused = refused_[static_cast<std::size_t>(std::countr_zero(alignment))];
  if (size >= refused.bytes && refused.fitting == 0) return nullptr;
  const unsigned first = bin_of(size);
  // All that is free lies at multiples of the granule.
  const unsigned sure = bin_of(size + (std::max(alignment, granule) - granule) - 1) + 1;
  Found found = find(size, alignment, end, first, sure);
  if (found.extent == nullptr) found = find(size, alignment, end, sure, bins);
  if (found.extent == nullptr) found = find_among_all(size, alignment, end, first, sure);
  if (found.extent == nullptr) {
    refused = {.bytes = size, .fitting = 0};
    return nullptr;
  }
  if (end == End::low) found.at = naturally(found.extent, found.at, size);
  return carve(found.extent, found.at, size);
}

Block* Extents::take_range(std::byte* data, std::size_t bytes) noexcept {
  for (unsigned bin = next_bin(bin_of(bytes)); bin < bins; bin = next_bin(bin + 1))
    for (Block* extent = heads_[bin]; extent != nullptr; extent = extent->free_after)
      if (extent->data <= data && data + bytes <= extent->data + extent->capacity) return carve(extent, data, bytes);
  return nullptr;
}

void Extents::split(Block* extent, std::size_t bytes, Block* rest) noexcept {
  rest->data = extent->data + bytes;
  rest->capacity = extent->capacity - bytes;
  rest->owner = extent->owner;
  rest->from_mimalloc = rest->is_free = false;
  rest->address_before = extent;
  rest->address_after = extent->address_after;
  if (rest->address_after != nullptr) rest->address_after->address_before = rest;
  extent->address_after = rest;
  extent->capacity = bytes;
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
  if (largest_known_) return largest_;
  largest_ = 0;
  largest_known_ = true;
  for (std::size_t word = used_.size(); word-- > 0;) {
    if (used_[word] == 0) continue;
    const auto bin = static_cast<unsigned>(word * 64) + 63 - static_cast<unsigned>(std::countl_zero(used_[word]));
    int looks = 1000;  // some microseconds
    for (const Block* extent = heads_[bin]; extent != nullptr && looks != 0; extent = extent->free_after, --looks)
      largest_ = std::max<std::size_t>(largest_, extent->capacity);
    break;
  }
  return largest_;
}

}  // namespace thole::inline v0_1::detail
