#pragma once

// The memory of one arena: pinned regions, the mimalloc chunks in them for small sizes, and the page-granular
// extents for the rest. Everything here takes the store's one lock; the thread caches of a heap stand in front of it.

#include <atomic>
#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

#include <thole/arena.hpp>
#include <thole/error.hpp>

#include "blocks/block.hpp"
#include "memory/chunks.hpp"
#include "memory/extents.hpp"

namespace thole::detail {

struct DeviceCore;

/// What a store is made with; validated by PinnedArena before.
struct StoreOptions {
  std::size_t bytes = 0;
  std::size_t max_bytes = 0;
  PinMethod pin = PinMethod::register_pages;
  int numa_node = -1;  ///< -1: wherever the system likes
};

/// A snapshot; all in bytes but the counts.
struct StoreStats {
  std::size_t capacity = 0;      ///< pinned now
  std::size_t max_capacity = 0;  ///< what it may grow to
  std::size_t free = 0;          ///< in extents and in mimalloc's chunks (capacity - handed out)
  std::size_t peak = 0;          ///< the most that was ever handed out
  std::size_t largest_free = 0;  ///< the largest extent
  std::size_t handed_out = 0;    ///< capacity of all blocks that are out (in caches and queues, too)
  std::size_t wasted = 0;        ///< mimalloc's and alignment's overhead while nothing can use it
  std::size_t regions = 0;
  std::size_t mimalloc_bytes = 0;  ///< lent to mimalloc's chunks
  std::size_t grown = 0;           ///< how often the arena grew
};

/// One stretch of a region, for pictures and reports, in address order.
struct StoreSpan {
  const std::byte* data = nullptr;
  std::size_t bytes = 0;
  enum class Kind { free, block, mimalloc_free } kind = Kind::free;
  const Block* block = nullptr;  ///< where kind is block
  std::size_t region = 0;        ///< index
};

class Store {
 public:
  /// Pins `options.bytes` (rounded up to pages) at once. The store keeps the device alive until it is closed and empty.
  /// Errors: limit, out_of_memory, invalid_argument, device_lost, device_error.
  static Result<Store*> open(std::shared_ptr<DeviceCore> device, const StoreOptions& options);

  /// A block of at least `bytes` (> 0) at a multiple of `alignment` (a power of two, at most a page), or nullptr when
  /// nothing that is pinned now can serve it. Its `data`, `capacity`, `store` are set; its uses are empty. May allocate
  /// ordinary memory; never maps or pins. Never throws.
  Block* allocate(std::size_t bytes, std::size_t alignment) noexcept;
  /// Up to `count` such blocks under one lock; returns how many there were.
  std::size_t allocate_batch(std::size_t bytes, std::size_t alignment, Block** out, std::size_t count) noexcept;

  /// Takes back a block that nobody uses and no device may touch; its uses are empty. Its record may become another
  /// block's at once. Never allocates, throws or maps.
  void free(Block* block) noexcept;
  /// Many under one lock; all of this store.
  void free_batch(Block** blocks, std::size_t count) noexcept;

  /// Adds a region, at least large enough for `bytes`, within max_bytes. One thread grows at a time; others wait for it
  /// and return when it has finished, but allocate and free go on meanwhile. ok, or out_of_memory / limit /
  /// device_lost. `seen_growths`: growths() as read before the allocation failed; if the arena has grown since, returns
  /// ok at once.
  Result<void> grow(std::size_t bytes, std::size_t seen_growths);
  std::size_t growths() const noexcept { return growths_.load(std::memory_order_acquire); }

  /// Lets go of regions with nothing in them, down to StoreOptions::bytes. Returns bytes. Unpinning may block.
  std::size_t trim();

  /// No handle is left and every block is back: gives all memory back (the unpinner thread unpins, since that may
  /// block) and recycles the Store object. Called once per open, by one thread.
  void close() noexcept;

  /// Bytes pinned now. Lock-free.
  std::size_t capacity() const noexcept { return capacity_.load(std::memory_order_relaxed); }
  bool contains(const void* pointer) const noexcept;
  StoreStats stats() const;
  std::vector<StoreSpan> spans() const;
  DeviceCore& device() const noexcept { return *device_; }
  const std::shared_ptr<DeviceCore>& device_ptr() const noexcept { return device_; }
  /// The most that one block could have, if all were free and grown.
  std::size_t largest_possible() const noexcept;

 private:
  Store() = default;

  Block* allocate_locked(std::size_t bytes, std::size_t alignment) noexcept;
  void free_locked(Block* block) noexcept;
  bool add_region(Region* region) noexcept;
  Region* take_empty_regions(std::size_t* bytes) noexcept;

  std::shared_ptr<DeviceCore> device_;
  StoreOptions options_;

  mutable std::mutex growing_;  // held while a region is added or let go; taken before mutex_
  mutable std::mutex mutex_;    // the lock: everything below but the atomics
  Extents extents_;
  Chunks chunks_{extents_};
  std::vector<Region*> regions_;
  std::size_t handed_out_ = 0;
  std::size_t peak_ = 0;

  std::atomic<std::size_t> growths_{0};   // release, after the region is there: pairs with growths()
  std::atomic<std::size_t> capacity_{0};  // relaxed: a figure

  Store* next_ = nullptr;  // of the stores that are closed
};

}  // namespace thole::detail
