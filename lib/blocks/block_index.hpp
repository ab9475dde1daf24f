#pragma once

// Which block an address lies in, for programs that keep raw addresses. Only blocks whose address was given away as one
// are here.
//
// For each stripe of 64 KiB of addresses there is a table of the blocks that start in it, under a lock of the stripe's
// own: a place for as many bytes as the smallest block has that was ever in it, so that no two blocks have one place
// and nobody searches for it. The block of an inner address is the nearest start at or below it: while that block is
// here nothing else starts inside of it.
//
// The tables are ordinary memory: they count as records of blocks do (block_pool.hpp), and go with those.

#include <cstddef>

#include "blocks/block.hpp"

namespace thole::inline v0_1::detail {

/// All of it: the process's one index. Thread safety: any thread, at any time.
struct BlockIndex {
  /// The block is found from now on. False: the system has no memory, or a limit leaves none.
  static bool add(Block& block) noexcept;
  /// The block that starts at the address, or nullptr: none does, or it is not that heap's.
  static Block* at(const void* address, const HeapCore* heap) noexcept;
  /// As at(), and the block is not found any more. Of several callers with one address, one gets the block.
  static Block* remove(const void* address, const HeapCore* heap) noexcept;
  /// The block of that heap that the address lies in, or nullptr. The caller knows that this block stays here
  /// meanwhile.
  static Block* around(const void* address, const HeapCore* heap) noexcept;

  /// Gives back the tables of stripes that have no blocks.
  static void trim() noexcept;
  /// The same for these addresses.
  static void trim(const std::byte* data, std::size_t bytes) noexcept;
};

}  // namespace thole::inline v0_1::detail
