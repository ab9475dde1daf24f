#pragma once

// The page-granular half of a store: which stretches of the pinned regions are free. Best fit over segregated lists of
// free extents (16 lists for each power of two), neighbours joined at once. All records lie outside the pinned memory,
// so a region can be handed out to its last byte and nothing here is ever overwritten by a copy. The caller holds the
// store's lock.
//
// Why not one tree: the lists are found by two bit scans, and a list's sizes differ by at most a sixteenth, so the best
// fit of the few that are looked at is as good as the best of all (tests/memory/fragmentation_test.cpp).
//
// Of extents that may be too small, or badly aligned, a bounded number is looked at, and then the first list in which
// all surely fit. Only where there is none such are all looked at; what was not found then is not looked for again
// until an extent is free that fits.

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/bytes.hpp"
#include "blocks/block.hpp"

namespace thole::inline v0_1::detail {

struct Region;

class Extents {
 public:
  /// From here on sizes are rounded to pages; below, where a page would waste too much, to the granule.
  static constexpr std::size_t whole_pages_from = 32768;

  /// Which end of a free extent is used: large blocks go to the high end, small ones and mimalloc's chunks, which come
  /// seldom and stay long, to the low end, so that they do not cut the space of large blocks in two.
  enum class End { low, high };

  static constexpr std::size_t rounded(std::size_t bytes) noexcept {
    return round_up(bytes, bytes < whole_pages_from ? granule : page);
  }

  /// The whole region becomes one free extent. False when there is no memory for its record.
  bool add(Region& region) noexcept;
  /// Forgets a region if nothing in it is taken.
  bool remove(Region& region) noexcept;
  static bool empty(const Region& region) noexcept;

  /// An extent of at least `bytes` at a multiple of `alignment`, or nullptr. Its owner is the Region.
  Block* take(std::size_t bytes, std::size_t alignment, End end) noexcept;
  /// Exactly [data, data + bytes), if all of it is free; else nullptr.
  Block* take_range(std::byte* data, std::size_t bytes) noexcept;
  /// Makes two of a taken extent: it keeps the first `bytes`, and the others are that of `rest`, a record that the
  /// caller has acquired.
  static void split(Block* extent, std::size_t bytes, Block* rest) noexcept;
  /// Takes an extent back; its record may be gone afterwards.
  void give(Block* extent) noexcept;

  std::size_t free_bytes() const noexcept { return free_bytes_; }
  /// Of an extent that there is: the largest one, or, where more than a thousand are nearly as large, one that has at
  /// most a sixteenth less.
  std::size_t largest() const noexcept;

 private:
  struct Found {
    Block* extent = nullptr;
    std::byte* at = nullptr;
  };
  Found find(std::size_t bytes, std::size_t alignment, End end, unsigned from, unsigned to) const noexcept;
  Found find_among_all(std::size_t bytes, std::size_t alignment, End end, unsigned from, unsigned to) noexcept;

  static constexpr unsigned subs = 16;
  static constexpr unsigned bins = 44 * subs;

  static unsigned bin_of(std::size_t bytes) noexcept;
  unsigned next_bin(unsigned from) const noexcept;
  void link(Block* extent) noexcept;
  void unlink(Block* extent) noexcept;
  Block* carve(Block* extent, std::byte* at, std::size_t bytes) noexcept;

  std::array<Block*, bins> heads_{};
  std::array<Block*, bins> tails_{};
  std::array<std::uint64_t, (bins + 63) / 64> used_{};  // a bit for each list that is not empty
  std::size_t free_bytes_ = 0;
  // By the power of two of an alignment: a size for which nothing had room, and how many extents that have come since
  // do.
  struct Refused {
    std::size_t bytes = SIZE_MAX;
    std::size_t fitting = 0;
  };
  void count_fitting(const Block& extent, int more) noexcept;
  std::array<Refused, 13> refused_;
  mutable std::size_t largest_ = 0;
  mutable bool largest_known_ = true;
};

}  // namespace thole::inline v0_1::detail
