#pragma once

// The small half of a store: stretches of the regions that mimalloc fills with small blocks. A region has a few places
// for chunks; one is taken from the extents when small blocks are wanted and lent back when it is empty and the extents
// want it. The caller holds the store's lock, which also serves every call into mimalloc.

#include <cstddef>
#include <string_view>

#include "blocks/block.hpp"

namespace thole::inline v0_1::detail {

class Extents;
struct Region;
struct Chunk;

class Chunks {
 public:
  explicit Chunks(Extents& extents) noexcept : extents_(extents) {}

  /// The region is all free; chunks that mimalloc knows from an earlier arena are used again. False: there is no memory
  /// for a record.
  bool add(Region& region) noexcept;
  /// Whether no block is out in the region, but what is mimalloc's own.
  static bool holds_nothing(const Region& region) noexcept;
  /// Undoes add() for a region without a block in it.
  void remove(Region& region) noexcept;

  /// Tells mimalloc of a first chunk, which takes a fraction of a millisecond, before anybody waits for a block.
  void prepare() noexcept;

  /// Up to here every multiple of the granule is a size of mimalloc's own, so that it fills a chunk as well as extents
  /// would. Above, it rounds every other size up by up to a fifth, and pages of many sizes that are partly used cost
  /// more: with 90 % of 256 MiB alive in sizes up to 32 KiB, 3 % of makes failed where it served them, too.
  static constexpr std::size_t largest = 512;
  /// A small block, or nullptr: it is not small, mimalloc has no room, or there is no place for another chunk.
  Block* take(std::size_t bytes, std::size_t alignment) noexcept;
  void give(Block* block) noexcept;
  /// An extent of so many bytes is free: there may be a place for a chunk again.
  void look_again(std::size_t bytes) noexcept {
    if (bytes >= (std::size_t{1} << 20)) patience_ = 0;
  }

  /// Lends every empty chunk back to the extents. False when there was none.
  bool lend_back() noexcept;
  /// The last resort of blocks that find no extent: mimalloc's room between small blocks.
  Block* take_leftover(std::size_t bytes, std::size_t alignment) noexcept;

  /// Bytes in chunks that small blocks can have.
  std::size_t room() const noexcept;
  /// Why no chunk serves, where one should, in a sentence for users; else empty.
  std::string_view trouble() const noexcept;
  /// The chunk that an extent belongs to, if any.
  static const Chunk* chunk_at(const Block& extent) noexcept;
  /// The largest extent that there would be after lend_back().
  std::size_t largest_if_lent() const noexcept;

 private:
  static bool is_idle_chunk(const Block& extent) noexcept;
  Block* take_from(Chunk& chunk, std::size_t bytes, std::size_t alignment) noexcept;
  Chunk* activate() noexcept;
  Chunk* activate_in(Region& region, std::size_t slot) noexcept;

  Extents& extents_;
  Chunk* active_ = nullptr;    // the chunks that mimalloc may use now, the last to be activated first
  Region* regions_ = nullptr;  // the store's regions that have places for chunks
  unsigned patience_ = 0;      // how many more blocks are refused before a place for another chunk is looked for again
};

}  // namespace thole::inline v0_1::detail
