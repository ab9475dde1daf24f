#include "memory/chunks.hpp"

#include <algorithm>
#include <cstdint>
#include <new>

#include <thole/config.hpp>

#include "blocks/block_pool.hpp"
#include "memory/extents.hpp"
#include "memory/mimalloc.hpp"
#include "memory/region.hpp"

namespace thole::detail {

bool Chunks::add(Region& region) noexcept {
  if (region.chunk_bytes == 0) return true;
  region.next_with_chunks = regions_;
  regions_ = &region;
  for (Chunk* chunk : region.chunks) {
    if (chunk == nullptr) continue;
    chunk->region = &region;
    // What mimalloc keeps in it is not for anybody else; a chunk beyond the region's bytes has no part in it.
    if (chunk->own_bytes == 0 || chunk->data + chunk->own_bytes > region.data + region.bytes) continue;
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
  for (Chunk* chunk : region.chunks)
    if (chunk != nullptr && chunk->own != nullptr) {
      extents_.give(chunk->own);
      chunk->own = nullptr;
    }
}

Block* Chunks::take_from(Chunk& chunk, std::size_t bytes, std::size_t alignment) noexcept {
  // A full heap takes tens of microseconds to say so: it is asked again when enough has come back.
  if (bytes >= chunk.refused && chunk.freed_since < bytes) return nullptr;
  Block* const block = acquire_block();
  if (block == nullptr) return nullptr;
  block->data = static_cast<std::byte*>(allocate_in_chunk(chunk, bytes, alignment));
  if (block->data == nullptr) {
    release_block(block);
    chunk.refused = bytes;
    chunk.freed_since = 0;
    return nullptr;
  }
  block->capacity = bytes;
  block->owner = &chunk;
  block->from_mimalloc = true;
  block->is_free = false;
  block->address_before = nullptr;
  block->address_after = chunk.blocks;
  if (chunk.blocks != nullptr) chunk.blocks->address_before = block;
  chunk.blocks = block;
  ++chunk.live;
  chunk.live_bytes += bytes;
  live_bytes_ += bytes;
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
  live_bytes_ -= block->capacity;
  chunk.freed_since += block->capacity;
  free_in_chunk(block->data);
  release_block(block);
}

Chunk* Chunks::activate_in(Region& region, std::size_t slot) noexcept {
  std::byte* const data = region.data + slot * region.chunk_bytes;
  Chunk* chunk = region.chunks[slot];
  if (chunk != nullptr) {
    if (chunk->heap == nullptr || chunk->extent != nullptr) return nullptr;
    chunk->extent = extents_.take_range(data + chunk->own_bytes, region.chunk_bytes - chunk->own_bytes);
    if (chunk->extent == nullptr) return nullptr;
  } else {
    Block* const whole = extents_.take_range(data, region.chunk_bytes);
    if (whole == nullptr) return nullptr;
    chunk = new (std::nothrow) Chunk;
    if (chunk == nullptr) {
      extents_.give(whole);
      return nullptr;
    }
    chunk->data = data;
    chunk->bytes = region.chunk_bytes;
    chunk->region = &region;
    chunk->extent = whole;
    if (!introduce_chunk(*chunk)) {
      extents_.give(whole);
      delete chunk;
      return nullptr;
    }
    region.chunks[slot] = chunk;  // for good
    if (chunk->own_bytes != 0) {
      // Two extents from now on, for the first stays when the second is lent back.
      extents_.give(whole);
      chunk->own = extents_.take_range(data, chunk->own_bytes);
      chunk->extent = extents_.take_range(data + chunk->own_bytes, chunk->bytes - chunk->own_bytes);
    }
    if (chunk->heap == nullptr) {
      extents_.give(chunk->extent);
      chunk->extent = nullptr;
      return nullptr;
    }
  }
  chunk->refused = SIZE_MAX;
  chunk->freed_since = 0;
  chunk->next_active = active_;
  active_ = chunk;
  bytes_ += chunk->bytes;
  return chunk;
}

Chunk* Chunks::activate() noexcept {
  for (Region* region = regions_; region != nullptr; region = region->next_with_chunks) {
    const std::size_t slots = std::min(region->bytes / region->chunk_bytes, region->chunk_slots);
    for (std::size_t slot = 0; slot < slots; ++slot)
      if (Chunk* const chunk = activate_in(*region, slot); chunk != nullptr) return chunk;
  }
  return nullptr;
}

Block* Chunks::take(std::size_t bytes, std::size_t alignment) noexcept {
  for (Chunk* chunk = active_; chunk != nullptr; chunk = chunk->next_active)
    if (Block* const block = take_from(*chunk, bytes, alignment); block != nullptr) return block;
  if (Chunk* const chunk = activate(); chunk != nullptr) return take_from(*chunk, bytes, alignment);
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
    *at = chunk->next_active;
    chunk->next_active = nullptr;
    bytes_ -= chunk->bytes;
    extents_.give(chunk->extent);
    chunk->extent = nullptr;
    any = true;
  }
  return any;
}

std::size_t Chunks::overhead() const noexcept {
  std::size_t bytes = 0;
  for (const Region* region = regions_; region != nullptr; region = region->next_with_chunks)
    for (const Chunk* chunk : region->chunks)
      if (chunk != nullptr && chunk->own != nullptr) bytes += chunk->own_bytes;
  return bytes;
}

bool Chunks::idle(const Block& extent) noexcept {
  const auto& chunks = static_cast<const Region*>(extent.owner)->chunks;
  return std::any_of(chunks.begin(), chunks.end(), [&extent](const Chunk* chunk) {
    return chunk != nullptr && chunk->extent == &extent && chunk->live == 0;
  });
}

const Chunk* Chunks::chunk_at(const Block& extent) noexcept {
  for (const Chunk* chunk : static_cast<const Region*>(extent.owner)->chunks)
    if (chunk != nullptr && (chunk->extent == &extent || chunk->own == &extent)) return chunk;
  return nullptr;
}

std::size_t Chunks::largest_if_lent() const noexcept {
  std::size_t most = 0;
  for (const Chunk* chunk = active_; chunk != nullptr; chunk = chunk->next_active) {
    if (chunk->live != 0) continue;
    auto lendable = [](const Block* extent) { return extent != nullptr && (extent->is_free || idle(*extent)); };
    std::size_t run = chunk->extent->capacity;
    for (const Block* at = chunk->extent->address_before; lendable(at); at = at->address_before) run += at->capacity;
    for (const Block* at = chunk->extent->address_after; lendable(at); at = at->address_after) run += at->capacity;
    most = std::max(most, run);
  }
  return most;
}

}  // namespace thole::detail
