#pragma once

// What mimalloc has been told of one address range. It cannot be made to forget, so these records stay with the range
// for good, from one arena that uses it to the next.

#include <array>
#include <cstddef>
#include <cstdint>

#include "blocks/block.hpp"

namespace thole::inline v0_1::detail {

/// A stretch of addresses that mimalloc serves small blocks from. It is *active* while mimalloc may use it. Otherwise
/// its memory is lent back to the extents (extents.hpp), but for the first `own_bytes`.
struct Chunk {
  std::byte* data = nullptr;   ///< where it starts
  std::size_t bytes = 0;       ///< its length
  std::size_t own_bytes = 0;   ///< at its start: mimalloc's own data, kept for ever; 0 with mimalloc 2.x
  std::intptr_t arena = 0;     ///< mimalloc's name for it
  void* heap = nullptr;        ///< the mi_heap_t (from 3.x on the mi_theap_t) that serves from it; nullptr: none yet
  bool useless = false;        ///< mimalloc serves nothing from it, and never will
  Block* own = nullptr;        ///< the extent of `own_bytes`, while an arena uses the range; nullptr: there are none
  Block* extent = nullptr;     ///< the extent of all the rest while the chunk is active; else nullptr
  Block* blocks = nullptr;     ///< those handed out, linked by address_before/after, in no order
  std::size_t live = 0;        ///< how many blocks are handed out
  std::size_t live_bytes = 0;  ///< the sum of their capacities
  std::size_t refused = SIZE_MAX;  ///< the size that mimalloc last had no room for
  std::size_t freed_since = 0;     ///< bytes that came back since then: with fewer than wanted, asking again is vain
  Chunk* next_active = nullptr;    ///< link of the store's active chunks
};

struct RestingThread;

/// The places for chunks in one address range, chosen once: chunk i may lie at `data + i * chunk_bytes` of the Mapping.
struct ChunkTable {
  static constexpr std::size_t most_slots = 64;

  std::size_t chunk_bytes = 0;              ///< the size of each
  std::size_t slots = 0;                    ///< how many places there are
  std::size_t known = 0;                    ///< how many of them mimalloc has been told of
  std::array<Chunk*, most_slots> chunks{};  ///< by place; nullptr: mimalloc has not been told of it
  RestingThread* owner = nullptr;           ///< of the chunks' heaps (mimalloc.cpp)
};

}  // namespace thole::inline v0_1::detail
