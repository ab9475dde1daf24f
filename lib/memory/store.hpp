#pragma once

// The memory of one arena: pinned regions, the mimalloc chunks in them for small sizes, and the page-granular
// extents for the rest. Everything here takes the store's one lock; the thread caches of a heap stand in front of it.
// Defined in: store.cpp, store_look.cpp, store_upkeep.cpp

#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <gsl/span>

#include <thole/error.hpp>

#include "base/recycling_pool.hpp"
#include "blocks/block.hpp"
#include "memory/chunks.hpp"
#include "memory/departures.hpp"
#include "memory/extents.hpp"
#include "memory/pinned_pool.hpp"
#include "memory/region.hpp"
#include "memory/region_hooks.hpp"

namespace thole::inline v0_1::detail {

/// What a store is made with; validated by PinnedArena before.
struct StoreOptions {
  std::size_t bytes = 0;                 ///< pinned at once, but for what pin_more() pins; trim() leaves so much
  std::size_t max_bytes = 0;             ///< what it may grow to; below `bytes`: it never grows
  RegionOptions region;                  ///< how all of it is pinned
  std::size_t largest = largest_region;  ///< no region is larger, and no block
  RegionHooks hooks = {};                ///< who is told of its regions
  std::size_t piece = 0;                 ///< not 0: open() pins this much only, and pin_more() as much each time
};

/// A snapshot; all in bytes but the counts.
struct StoreStats {
  std::size_t capacity = 0;      ///< pinned now
  std::size_t max_capacity = 0;  ///< what it may grow to
  std::size_t free = 0;          ///< in extents, and what mimalloc's chunks have for small blocks
  std::size_t peak = 0;          ///< the most that was ever handed out
  std::size_t largest_free = 0;  ///< the largest extent
  std::size_t handed_out = 0;    ///< capacity of all blocks that are out (in caches and queues, too)
  std::size_t wasted = 0;        ///< the rest: in mimalloc's chunks, for its own data or where nothing fits any more
  std::size_t regions = 0;
  std::size_t grown = 0;       ///< how often the arena grew
  std::string_view trouble;    ///< Chunks::trouble()
  std::size_t to_pin = 0;      ///< what pin_more() has still to pin
  std::string pinning_failed;  ///< why it has stopped before
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
  /// Pins `options.bytes` (rounded up to pages) at once, in regions of at most largest_region. The store keeps the
  /// device alive until it is closed and empty. Errors: limit, out_of_memory, invalid_argument, device_lost,
  /// device_error.
  static Result<Store*> open(std::shared_ptr<DeviceCore> device, const StoreOptions& options,
                             Unpinning unpinning = Unpinning::if_needed);

  /// A store over memory of the program's, that never grows. `whole`: it has no free memory, but take_whole(). Nothing
  /// is pinned before pin_adopted(); a store that is closed before has done nothing. Errors: out_of_memory.
  static Result<Store*> open_adopted(std::shared_ptr<DeviceCore> device, std::byte* data, std::size_t bytes,
                                     bool whole);
  /// Pins the memory, if `access` says how; else the program has. The store is closed at some time after, and when
  /// nothing is pinned or in use any more `release` is called (departures.hpp). Errors: as register_adopted().
  Result<void> pin_adopted(std::optional<HostAccess> access, std::function<void()>&& release, const char* call);
  /// One more block of all the memory of a store that is `whole`; nullptr where the system has no memory. It comes back
  /// through free_batch().
  Block* take_whole() noexcept;
  bool whole_only() const noexcept { return whole_; }

  /// Up to `count` blocks of at least `bytes` (> 0) at multiples of `alignment` (a power of two, at most a page), under
  /// one lock; returns how many there are in what is pinned now. Their `data`, `capacity`, `store` are set; their uses
  /// are empty. May allocate ordinary memory; never maps, pins or throws.
  /// `leftovers`: from what mimalloc has between small blocks, too, which wastes some of it; for when all else is gone.
  std::size_t allocate_batch(std::size_t bytes, std::size_t alignment, Block** out, std::size_t count,
                             bool leftovers = true) noexcept;
  /// Takes back blocks of this store that nobody uses and no device may touch; their uses are empty. Their records may
  /// become other blocks' at once. Holds the lock for some of them at a time. Never allocates, throws or maps.
  void free_batch(Block** blocks, std::size_t count) noexcept;
  /// Takes back what mimalloc was lent and holds nothing, so that it cuts nothing in two.
  void lend_back() noexcept;

  /// Adds a region, at least large enough for `bytes`, within max_bytes. One thread grows at a time; others wait for it
  /// and return when it has finished, but allocate and free go on meanwhile. Unpins nothing. ok, or out_of_memory /
  /// limit / device_lost, and the store has what it had; `waits`: never for a thread that grows. `seen_growths`:
  /// growths() as read before the allocation failed; if the arena has grown since, returns ok at once.
  enum class Waits { for_others, never };
  Result<void> grow(std::size_t bytes, std::size_t seen_growths, Waits waits = Waits::for_others);
  std::size_t growths() const noexcept { return growths_.load(std::memory_order_acquire); }

  /// Unpins regions with nothing in them, down to StoreOptions::bytes. Returns bytes. Waits for running work.
  std::size_t trim();

  // ---- What the library's own thread does (heap/caretaker.hpp)

  /// Pins one more piece of StoreOptions::bytes. False: there is nothing left to pin, or that failed, as stats() says.
  /// Waits for nobody but who makes the store grow.
  bool pin_more() noexcept;
  /// Whether it has more than StoreOptions::bytes. Lock-free.
  bool has_grown() const noexcept { return capacity() > options_.bytes; }
  /// That thread cannot go on.
  void stop_pinning(const Error& why) noexcept;
  /// As trim(), but only regions that were empty at each look since `now - age`: a look is a call of this. Nobody who
  /// wants memory waits for it meanwhile.
  std::size_t trim_idle(std::chrono::steady_clock::time_point now, std::chrono::nanoseconds age) noexcept;

  /// No handle is left and every block is back: lets go of all regions, which stay pinned (pinned_pool.hpp), and
  /// recycles the Store object; where the program is told, another thread lets go of them (departures.hpp). Called once
  /// per open, by one thread. In a forked child it does nothing: the memory is the parent's.
  void close() noexcept;

  /// Bytes pinned now. Lock-free.
  std::size_t capacity() const noexcept { return capacity_.load(std::memory_order_relaxed); }
  /// Bytes in blocks that are out. Lock-free.
  std::size_t handed_out() const noexcept { return handed_out_.load(std::memory_order_relaxed); }
  bool contains(const void* pointer) const noexcept;
  /// The regions now. Throws std::bad_alloc.
  std::vector<gsl::span<std::byte>> regions() const;
  /// Whether a function of the program's runs on this thread that is being told of a region of this store's.
  bool is_telling() const noexcept { return in_hook_of(this); }
  StoreStats stats() const;
  /// Throws std::bad_alloc.
  std::vector<StoreSpan> spans() const;
  /// The most that one block could have, if all were free and grown.
  std::size_t largest_possible() const noexcept;

 private:
  Store() = default;

  Block* allocate_locked(std::size_t bytes, std::size_t alignment, bool leftovers) noexcept;
  void free_locked(Block* block) noexcept;
  void give_whole(Block* block) noexcept;
  bool list(std::vector<StoreSpan>& extents, std::vector<StoreSpan>& blocks) const noexcept;
  static Store* make(std::shared_ptr<DeviceCore> device, std::size_t bytes, std::size_t max_bytes,
                     std::unique_ptr<Departure> departure);
  Result<void> take_in(Region* region) noexcept;
  bool add_region(Region* region) noexcept;
  const RegionHooks* hooks() const noexcept { return departure_ != nullptr ? &departure_->hooks : nullptr; }
  struct Look {
    std::chrono::steady_clock::time_point now;
    std::chrono::nanoseconds age;
    bool finds_idle(Region& region, bool empty) const noexcept;
  };
  Region* take_empty_regions(std::size_t* bytes, std::size_t down_to, const Look* look = nullptr) noexcept;
  std::size_t room_beside_what_is_used() noexcept;
  Result<void> exchange_for(Region* region);
  void unpin(Region* list) noexcept;
  Result<void> pin_piece(std::size_t bytes, Unpinning unpinning);

  std::uint32_t process_ = 0;             // which process opened it (fork.hpp)
  std::shared_ptr<DeviceCore> device_;    // set while the store is open
  StoreOptions options_;                  // both sizes in whole pages; without the hooks
  std::unique_ptr<Departure> departure_;  // the hooks, and what follows the end; nullptr: nobody is told of anything
  bool whole_ = false;                    // only blocks of all the memory: the region's `lowest` lists them

  std::mutex growing_;            // held while a region is added or let go; taken before mutex_
  mutable std::mutex mutex_;      // guards all that follows, but the atomics
  Extents extents_;               // what is free
  Chunks chunks_{extents_};       // what mimalloc has of it
  std::vector<Region*> regions_;  // the first is there from open() on, the others by growth
  std::size_t peak_ = 0;          // the most that handed_out_ ever was
  std::size_t pieces_ = 0;        // how often growths_ was no growth of the arena's, but pin_more()
  bool pinned_all_ = false;       // StoreOptions::bytes have been there
  std::string pinning_failed_;    // why pin_more() has stopped

  std::atomic<std::size_t> handed_out_{0};  // bytes in blocks that are out; written under the lock; relaxed: a figure
  std::atomic<std::size_t> growths_{0};     // written with release when the region is there: pairs with growths()
  std::atomic<std::size_t> capacity_{0};    // the regions' bytes; relaxed: a figure

  Store* next_ = nullptr;  // link of the closed stores, which are opened again and never destroyed
  using Pool = RecyclingPool<Store, &Store::next_>;
};

}  // namespace thole::inline v0_1::detail
