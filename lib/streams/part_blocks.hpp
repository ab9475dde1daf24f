#pragma once

// Parts of a block, each a block of its own as far as holders and uses go: a borrow of one looks at that part alone.
// The whole is held by its parts, as by graphs, and has no handle any more. When a part ends, its open uses become the
// whole's, which is released with the last part and then waits for all of them as any block does.

#include <cstddef>

#include "blocks/block.hpp"

namespace thole::inline v0_1::detail {

/// A new part, with a handle, of what `of` is, or is a part of; its uses are those of `of`. nullptr: the system has no
/// memory. The caller holds `of`.
Block* make_part(Block& of, std::byte* data, std::size_t bytes) noexcept;
/// The uses of `from` are uses of `to`, too. False: the system has no memory.
bool copy_uses(const Uses& from, Block& to) noexcept;
/// The block was split into parts, or joined with others, and its uses copied: it has only its handle, and ends.
/// Returns the whole where nobody holds that any more.
Block* end_split(Block* block) noexcept;
/// Nobody holds the part any more. Returns the whole where nobody holds that, either.
Block* end_part(Block* part) noexcept;
/// Whether the block has parts now.
bool has_parts(const Block& block) noexcept;

}  // namespace thole::inline v0_1::detail
