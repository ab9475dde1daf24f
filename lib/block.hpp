#pragma once

// The record of one piece of pinned memory. Storage owns what is in flight: the uses of the memory, who still holds it,
// and the link of the queue in which it waits after a drop all live here, so that dropping allocates nothing.
//
// Records are never given back to the system (block_pool.hpp): a stale pointer to one always points to a Block. They lie
// outside the pinned memory, where no copy can overwrite them.

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <source_location>

namespace thole::detail {

class Store;
class Timeline;
struct HeapCore;

/// One stream's uses of a block: the positions in that stream of the last read and the last write by the device. A
/// position that the timeline has completed no longer counts. Written by the buffer's owner only; atomic (relaxed) so
/// that heap.report() may look from another thread.
struct Use {
  std::atomic<Timeline*> timeline{nullptr};
  std::atomic<std::uint64_t> read{0};
  std::atomic<std::uint64_t> write{0};
};

/// Uses beyond those that a Block holds itself; kept with the record once made.
struct UseChunk {
  std::array<Use, 4> uses;
  std::atomic<UseChunk*> next{nullptr};
};

/// Bits of Block::state. The block may be recycled when the whole word is 0.
struct Hold {
  static constexpr std::uint64_t reader = 1;                        // one per Borrow
  static constexpr std::uint64_t readers = 0x7fffffff;              // mask
  static constexpr std::uint64_t writer = std::uint64_t{1} << 31;   // the BorrowMut
  static constexpr std::uint64_t borrows = readers | writer;        // mask
  static constexpr std::uint64_t handle = std::uint64_t{1} << 32;   // the PinnedBuffer
  static constexpr std::uint64_t graph = std::uint64_t{1} << 33;    // one per graph node that uses the block
};

struct alignas(64) Block {
  // What every call touches.
  std::byte* data = nullptr;
  std::size_t capacity = 0;  ///< bytes that the memory can hold; at least what was asked for
  std::atomic<std::uint64_t> state{0};
  HeapCore* heap = nullptr;
  std::array<Use, 1> uses;          ///< further ones follow in `more`
  std::atomic<UseChunk*> more{nullptr};

  // Queues: a cache's slot, a timeline's queue, a list being moved. A block is in one of them at a time.
  Block* next = nullptr;

  // Where and when, for heap.report().
  std::source_location made_at;
  std::atomic<std::int64_t> used_since_ns{0};   ///< steady clock; the first use that was open when it was made
  std::atomic<std::size_t> asked_bytes{0};      ///< what the user asked for; 0 while nobody has the block

  // The store's own: set by it alone, under its lock.
  Store* store = nullptr;
  void* owner = nullptr;              ///< the region, or the mimalloc chunk, that the memory comes from
  bool from_mimalloc = false;
  bool is_free = false;
  Block* address_before = nullptr;    ///< the neighbours by address, free or not, in one region
  Block* address_after = nullptr;
  Block* free_before = nullptr;       ///< the list of free extents of one size class
  Block* free_after = nullptr;
};

}  // namespace thole::detail
