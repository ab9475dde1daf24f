#pragma once

// Pinned regions. A region is one registration with the device: a buffer never straddles two.

#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>

#include <thole/error.hpp>
#include <thole/pin_method.hpp>

#include "backend/device_core.hpp"
#include "base/bytes.hpp"
#include "blocks/block.hpp"
#include "memory/mapping.hpp"

namespace thole::inline v0_1::detail {

/// How regions are pinned.
struct RegionOptions {
  PinMethod pin = PinMethod::register_pages;
  int numa_node = -1;          ///< the memory comes from there only; -1: from the device's own node if it has some
  bool in_core_dumps = false;  ///< see ArenaOptions

  friend bool operator==(const RegionOptions&, const RegionOptions&) = default;
};

/// The most that is registered at once: drivers refuse 512 GiB.
inline constexpr std::size_t largest_region = (std::size_t{512} << 30) - huge_page;

/// One stretch of pinned memory.
struct Region {
  std::byte* data = nullptr;     ///< where it starts
  std::size_t bytes = 0;         ///< its length, whole pages
  std::size_t pinned_bytes = 0;  ///< what is pinned from there on: at least `bytes`
  RegionOptions options;         ///< how it is pinned
  Mapping* mapping = nullptr;    ///< the addresses that it lies in; nullptr: the driver, or the program, made them
  bool adopted = false;          ///< the memory is the program's (PinnedArena::adopt)
  bool registered = false;       ///< of adopted memory: by the library, and not by the program
  std::shared_ptr<DeviceCore> device;  ///< with which it is registered
  Block* lowest = nullptr;             ///< the extent at its start (extents.hpp); the others follow by address
  Region* next = nullptr;              ///< link of a list of regions that are let go
  bool taken_from = false;             ///< since the last look whether it is idle (Store::trim_idle)
  std::optional<std::chrono::steady_clock::time_point> empty_since;  ///< at every look since then
  Region* next_with_chunks = nullptr;  ///< link of the store's regions that mimalloc may be given parts of
};

/// Maps, touches and pins `bytes` (whole pages). Errors: limit (says which, and how much was wanted), out_of_memory,
/// device_lost, device_error, invalid_argument (no such NUMA node); nothing is left behind. Waits while other threads
/// touch memory that may be the last there is.
Result<Region*> pin_region(const std::shared_ptr<DeviceCore>& device, std::size_t bytes, const RegionOptions& options);

/// A region of memory that the program has. Nothing is pinned yet. Errors: out_of_memory.
Result<Region*> adopt_region(const std::shared_ptr<DeviceCore>& device, std::byte* data, std::size_t bytes);

/// Pins it. Does not wait. `call` names who asks. Errors: invalid_argument (what the device refuses, with its words),
/// limit, out_of_memory, device_lost, device_error; nothing is pinned then.
Result<void> register_adopted(Region& region, HostAccess access, const char* call);

/// The Region is gone. Unpins what register_adopted() has pinned, and waits then as unpin_region() does; returns what
/// the backend said.
Status let_go_of_adopted(Region* region) noexcept;

/// Makes a region that an arena had before as a new one, but for what its memory holds. Returns it.
Region* prepared_again(Region* region) noexcept;

/// Unpins the memory and gives it back; the Region is gone. Blocks until running work has finished, and most calls of
/// other threads with it (see pinned_pool.hpp). Returns what the backend said. `*stays`: the device has refused, as in
/// a host function, and the memory is pinned still; the Region is the caller's.
Status unpin_region(Region* region, DeviceBackend& backend, bool* stays) noexcept;

/// The rest of unpin_region, where the registration has ended already.
void unmap_region(Region* region) noexcept;

}  // namespace thole::inline v0_1::detail
