#pragma once

// Which block an address lies in, for programs that keep raw addresses. Only blocks whose address was given away as one
// are here.
//
// A leaf stands for 32 MiB of addresses: for each granule a pointer, to the block that starts there, and its length; a
// bit that says so; and for each stripe of 64 KiB how many start in it. The block of an inner address is the nearest
// start at or below it: while that block is here nothing else starts inside of it, so that looking needs no lock,
// whatever other threads put in and take out meanwhile. Nor does it look into a block: the nearest start below a
// foreign address is somebody else's, who may be giving it back.

#include <cstddef>

#include "blocks/block.hpp"

namespace thole::inline v0_1::detail {

/// All of it: the process's one index. Thread safety: any thread, at any time.
struct BlockIndex {
  /// The block is found from now on. False: the system has no memory.
  static bool add(Block& block) noexcept;
  /// The block that starts at the address, or nullptr: none does.
  static Block* at(const void* address) noexcept;
  /// As at(), and the block is not found any more. Of several callers with one address, one gets the block.
  static Block* remove(const void* address) noexcept;
  /// The block that the address lies in, or nullptr. The caller knows that this block stays here meanwhile.
  static Block* around(const void* address) noexcept;
};

}  // namespace thole::inline v0_1::detail
