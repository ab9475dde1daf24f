#pragma once

// Pinned regions: the only layer that maps memory. A region is one registration: a buffer never straddles two.
//
// An address range that mimalloc has been told of is never unmapped, since mimalloc cannot forget it: its memory goes
// back to the system, the range is parked, and the next arena that fits uses it again.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

#include <thole/arena.hpp>
#include <thole/error.hpp>

#include "backend/device_core.hpp"
#include "blocks/block.hpp"

namespace thole::detail {

struct Region;

/// A stretch of a region's address range that mimalloc knows, for good (chunks.hpp, mimalloc.hpp). While `extent` is
/// nullptr it is lent back: the memory is the extents' again, but for the first `own_bytes`.
struct Chunk {
  std::byte* data = nullptr;
  std::size_t bytes = 0;
  std::size_t own_bytes = 0;  ///< at the start: mimalloc's own data, kept for ever
  void* heap = nullptr;       ///< mi_heap_t
  Region* region = nullptr;
  Block* own = nullptr;            ///< the extent of `own_bytes`, if there are any
  Block* extent = nullptr;         ///< the rest, while mimalloc may use it
  Block* blocks = nullptr;         ///< handed out of it: a list by address_before/after, in no order
  std::size_t live = 0;            ///< their count
  std::size_t live_bytes = 0;      ///< their capacity
  std::size_t refused = SIZE_MAX;  ///< the smallest size that mimalloc had no room for ...
  std::size_t freed_since = 0;     ///< ... and the bytes freed since
  Chunk* next_active = nullptr;    ///< of the store
};

struct Region {
  static constexpr std::size_t most_chunks = 64;

  std::byte* data = nullptr;
  std::size_t bytes = 0;   ///< pinned, whole pages
  std::size_t mapped = 0;  ///< of address range, from `data`; at least `bytes`; 0 when the driver made the memory
  std::shared_ptr<DeviceCore> device;
  std::size_t chunk_bytes = 0;  ///< chunk i lies at data + i * chunk_bytes; chosen once for the address range; 0: none
  std::size_t chunk_slots = 0;
  std::array<Chunk*, most_chunks> chunks{};  ///< those that mimalloc knows
  Block* lowest = nullptr;                   ///< the first extent (extents.hpp)
  Region* next = nullptr;                    ///< of the list that it is in
  Region* next_with_chunks = nullptr;

  bool known_to_mimalloc() const noexcept {
    return std::any_of(chunks.begin(), chunks.end(), [](const Chunk* chunk) { return chunk != nullptr; });
  }
};

/// Maps, touches and pins `bytes` (whole pages). Errors: limit (says which, and how much was wanted), device_lost,
/// device_error, invalid_argument (no such NUMA node); nothing is left behind.
Result<Region*> pin_region(std::shared_ptr<DeviceCore> device, std::size_t bytes, PinMethod pin, int numa_node);

/// Gives the memory back; the Region is gone, or parked. Unpinning may block until running kernels have finished.
void unpin_region(Region* region) noexcept;

/// As unpin_region, on the unpinner's thread. Never blocks, never allocates.
void unpin_region_later(Region* region) noexcept;

/// How many regions the unpinner has given back so far.
std::size_t regions_unpinned_later() noexcept;

/// Waits until the unpinner has nothing left to do.
void finish_unpinning() noexcept;

}  // namespace thole::detail
