#include "memory/chunks.hpp"

#include <algorithm>
#include <cstdint>
#include <new>
#include <utility>

#include <thole/config.hpp>

#include "base/bytes.hpp"
#include "blocks/block_pool.hpp"
#include "memory/chunk.hpp"
#include "memory/extents.hpp"
#include "memory/mapping.hpp"
#include "memory/mimalloc.hpp"
#include "memory/region.hpp"

namespace thole::inline v0_1::detail {

namespace {

// A chunk that holds one small block is closed to large ones, so chunks are a small part of a region, but not so many
// that an arena of small blocks uses up mimalloc's slots. 3.x keeps data of its own at the start of each chunk for
// ever, so there a region has one, at its start, where it cuts nothing in two. Smaller regions have none: extents serve
// all sizes, as fast.
ChunkTable* plan_chunks(std::size_t bytes) noexcept {
  if (bytes < least_parked) return nullptr;
  auto* const table = new (std::nothrow) ChunkTable;
  if (table == nullptr) return nullptr;
  constexpr std::size_t unit = config::smallest_region;
  table->chunk_bytes = std::max(round_down(bytes / 32, unit), unit);
  table->slots = config::arena_data_in_region ? 1 : std::min(bytes / table->chunk_bytes, ChunkTable::most_slots);
  return table;
}

ChunkTable* table_of(const Region& region) noexcept {
  return region.mapping != nullptr ? region.mapping->chunks : nullptr;
}

ChunkTable* table_of(const Block& extent) noexcept { return table_of(*static_cast<const Region*>(extent.owner)); }

}  // namespace

bool Chunks::add(Region& region) noexcept {
  if (region.mapping == nullptr) return true;
  if (region.mapping->chunks == nullptr) region.mapping->chunks = plan_chunks(region.mapping->bytes);
  const ChunkTable* const table = region.mapping->chunks;
  if (table == nullptr) return true;
  region.next_with_chunks = regions_;
  regions_ = &region;
  for (Chunk* chunk : table->chunks) {
    // What mimalloc keeps in it is not for anybody else; a chunk beyond the region's bytes has no part in it.
    if (chunk == nullptr || chunk->own_bytes == 0 || chunk->data + chunk->own_bytes > region.data + region.bytes)
      continue;
    chunk->own = extents_.take_range(chunk->data, chunk->own_bytes);
    if (chunk->own == nullptr) return false;
  }
  return true;
}

void Chunks::remove(Region& region) noexcept {
  for (Region** at = &regions_; *at != nullptr; at = &(*at)->next_with_chunks)
    if (*at == &region) {
      *at = region.next_with_chunks;
      break;
    }
  region.next_with_chunks = nullptr;
  const ChunkTable* const table = table_of(region);
  if (table == nullptr) return;
  for (Chunk* chunk : table->chunks)
    if (chunk != nullptr && chunk->own != nullptr) {
      extents_.give(chunk->own);
      chunk->own = nullptr;
    }
}

bool Chunks::holds_nothing(const Region& region) noexcept {
  for (const Block* extent = region.lowest; extent != nullptr; extent = extent->address_after)
    if (const Chunk* const chunk = extent->is_free ? nullptr : chunk_at(*extent);
        !extent->is_free && (chunk == nullptr || chunk->own != extent))
      return false;
  return true;
}

Block* Chunks::take_from(Chunk& chunk, std::size_t bytes, std::size_t alignment) noexcept {
  // A full heap takes tens of microseconds to say so: it is asked again when enough has come back.
  if (bytes >= chunk.refused && chunk.freed_since < bytes) return nullptr;
  Block* const block = acquire_block();
  if (block == nullptr) return nullptr;
  std::size_t taken = bytes;
  block->data = static_cast<std::byte*>(allocate_in_chunk(chunk, taken, alignment));
  if (block->data == nullptr) {
    release_block(block);
    chunk.refused = bytes;
    chunk.freed_since = 0;
    return nullptr;
  }
  block->capacity = taken;
  block->owner = &chunk;
  block->from_mimalloc = true;
  block->is_free = false;
  block->address_before = nullptr;
  block->address_after = chunk.blocks;
  if (chunk.blocks != nullptr) chunk.blocks->address_before = block;
  chunk.blocks = block;
  ++chunk.live;
  chunk.live_bytes += taken;
  return block;
}

void Chunks::give(Block* block) noexcept {
  Chunk& chunk = *static_cast<Chunk*>(block->owner);
  if (block->address_before != nullptr)
    block->address_before->address_after = block->address_after;
  else
    chunk.blocks = block->address_after;
  if (block->address_after != nullptr) block->address_after->address_before = block->address_before;
  --chunk.live;
  chunk.live_bytes -= block->capacity;
  chunk.freed_since += block->capacity;
  free_in_chunk(block->data);
  release_block(block);
}

namespace {

/// A forked child has mimalloc's records. Versions that keep data of their own in the region look at it there, and at
/// the pages of live blocks.
void copy_chunk_to_children(const Chunk& chunk) noexcept {
  if constexpr (config::arena_data_in_region) copy_to_children(chunk.data, chunk.bytes, true);
}

}  // namespace

Chunk* Chunks::activate_in(Region& region, std::size_t slot) noexcept {
  ChunkTable& table = *region.mapping->chunks;
  Chunk* chunk = table.chunks[slot];
  if (chunk != nullptr && (chunk->extent != nullptr || chunk->useless)) return nullptr;
  const std::size_t own_bytes = chunk != nullptr ? chunk->own_bytes : 0;
  std::byte* const data = region.data + slot * table.chunk_bytes;
  Block* const extent = extents_.take_range(data + own_bytes, table.chunk_bytes - own_bytes);
  if (extent == nullptr) return nullptr;
  // Where mimalloc keeps a part of it there are two extents from now on, for the first stays when the second is lent
  // back. Once it has been told there is no way back, so that the second's record is there before.
  Block* second = nullptr;
  if (config::arena_data_in_region && own_bytes == 0 && (second = acquire_block()) == nullptr) {
    extents_.give(extent);
    return nullptr;
  }
  if (chunk == nullptr) {
    chunk = new (std::nothrow) Chunk;
    if (chunk != nullptr) {
      chunk->data = data;
      chunk->bytes = table.chunk_bytes;
      copy_chunk_to_children(*chunk);
      if (introduce_chunk(*chunk, table))
        table.chunks[slot] = chunk;  // for good
      else
        delete std::exchange(chunk, nullptr);
    }
  } else {
    clear_headers(*chunk);
  }
  const bool serves = chunk != nullptr && (chunk->heap != nullptr || give_heap(*chunk, table));
  Block* lent = extent;  // what is not mimalloc's own; nullptr: all of it is
  if (chunk != nullptr && chunk->own_bytes != own_bytes) {
    region.mapping->kept_bytes = slot * table.chunk_bytes + chunk->own_bytes;  // there is only the first slot then
    chunk->own = extent;
    lent = chunk->own_bytes != chunk->bytes ? std::exchange(second, nullptr) : nullptr;
    if (lent != nullptr) Extents::split(extent, chunk->own_bytes, lent);
  }
  if (second != nullptr) release_block(second);
  if (!serves) {
    if (lent != nullptr) extents_.give(lent);
    return nullptr;
  }
  chunk->extent = lent;
  chunk->refused = SIZE_MAX;
  chunk->freed_since = 0;
  copy_chunk_to_children(*chunk);
  chunk->next_active = active_;
  active_ = chunk;
  return chunk;
}

Chunk* Chunks::activate() noexcept {
  for (Region* region = regions_; region != nullptr; region = region->next_with_chunks) {
    const ChunkTable& table = *region->mapping->chunks;
    const std::size_t slots = std::min(region->bytes / table.chunk_bytes, table.slots);
    for (std::size_t slot = 0; slot < slots; ++slot)
      if (Chunk* const chunk = activate_in(*region, slot); chunk != nullptr) return chunk;
  }
  return nullptr;
}

void Chunks::prepare() noexcept {
  patience_ = 0;
  activate();
  lend_back();
}

Block* Chunks::take(std::size_t bytes, std::size_t alignment) noexcept {
  if (round_up(bytes, alignment) > largest) return nullptr;
  for (Chunk* chunk = active_; chunk != nullptr; chunk = chunk->next_active)
    if (Block* const block = take_from(*chunk, bytes, alignment); block != nullptr) return block;
  constexpr unsigned refusals = 256;
  if (patience_ != 0 && --patience_ != 0) return nullptr;
  if (Chunk* const chunk = activate(); chunk != nullptr) return take_from(*chunk, bytes, alignment);
  patience_ = refusals;
  return nullptr;
}

Block* Chunks::take_leftover(std::size_t bytes, std::size_t alignment) noexcept {
  for (Chunk* chunk = active_; chunk != nullptr; chunk = chunk->next_active)
    if (chunk->bytes - chunk->live_bytes >= bytes)
      if (Block* const block = take_from(*chunk, bytes, alignment); block != nullptr) return block;
  return nullptr;
}

bool Chunks::lend_back() noexcept {
  bool any = false;
  for (Chunk** at = &active_; *at != nullptr;) {
    Chunk* const chunk = *at;
    if (chunk->live != 0) {
      at = &chunk->next_active;
      continue;
    }
    rest_chunk(*chunk);
    // What others have there is no child's.
    if constexpr (config::arena_data_in_region)
      copy_to_children(chunk->data + chunk->own_bytes, chunk->bytes - chunk->own_bytes, false);
    *at = chunk->next_active;
    chunk->next_active = nullptr;
    extents_.give(chunk->extent);
    chunk->extent = nullptr;
    any = true;
  }
  return any;
}

std::size_t Chunks::room() const noexcept {
  std::size_t bytes = 0;
  for (const Chunk* chunk = active_; chunk != nullptr; chunk = chunk->next_active)
    if (chunk->live == 0 || chunk->refused > largest || chunk->freed_since >= chunk->refused)
      bytes += chunk->extent->capacity - chunk->live_bytes;
  return bytes;
}

std::string_view Chunks::trouble() const noexcept {
  for (const Region* region = regions_; region != nullptr; region = region->next_with_chunks)
    for (const Chunk* chunk : table_of(*region)->chunks)
      if (chunk != nullptr && chunk->heap != nullptr) return {};
  return regions_ != nullptr ? mimalloc_trouble() : std::string_view();
}

const Chunk* Chunks::chunk_at(const Block& extent) noexcept {
  const ChunkTable* const table = table_of(extent);
  if (table == nullptr) return nullptr;
  // Both of a chunk's begin in its place.
  const auto* const region = static_cast<const Region*>(extent.owner);
  const std::size_t slot = static_cast<std::size_t>(extent.data - region->data) / table->chunk_bytes;
  const Chunk* const chunk = slot < table->slots ? table->chunks[slot] : nullptr;
  return chunk != nullptr && (chunk->extent == &extent || chunk->own == &extent) ? chunk : nullptr;
}

bool Chunks::is_idle_chunk(const Block& extent) noexcept {
  const Chunk* const chunk = chunk_at(extent);
  return chunk != nullptr && chunk->extent == &extent && chunk->live == 0;
}

std::size_t Chunks::largest_if_lent() const noexcept {
  std::size_t most = 0;
  for (const Chunk* chunk = active_; chunk != nullptr; chunk = chunk->next_active) {
    if (chunk->live != 0) continue;
    auto lendable = [](const Block* extent) {
      return extent != nullptr && (extent->is_free || is_idle_chunk(*extent));
    };
    std::size_t run = chunk->extent->capacity;
    for (const Block* at = chunk->extent->address_before; lendable(at); at = at->address_before) run += at->capacity;
    for (const Block* at = chunk->extent->address_after; lendable(at); at = at->address_after) run += at->capacity;
    most = std::max(most, run);
  }
  return most;
}

}  // namespace thole::inline v0_1::detail
