#pragma once

#include <cstddef>
#include <iosfwd>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>

#include <thole/device.hpp>
#include <thole/error.hpp>
#include <thole/export.hpp>
#include <thole/pin_method.hpp>

namespace thole {

namespace detail {
class ArenaCore;
}

/// What an arena is made with.
/// Thread safety: plain data.
struct ArenaOptions {
  /// Pinned at once, in bytes; rounded up to whole pages. At least 1.
  std::size_t bytes = std::size_t{256} << 20;
  /// The arena grows up to this many bytes when it is full; 0: it never grows. Else at least `bytes`.
  std::size_t max_bytes = 0;
  PinMethod pin_method = PinMethod::register_pages;
  /// The NUMA node that the memory is bound to; empty: wherever the system puts it.
  std::optional<int> numa_node = std::nullopt;
  /// Whether a core dump contains the arena's memory. Off, since a crash should not write gigabytes of data to a disk,
  /// and what is in flight says little; switch it on to look at buffers in a debugger afterwards. With
  /// `PinMethod::host_alloc` the driver decides.
  bool in_core_dumps = false;
};

/// A snapshot of an arena, in bytes where it does not say otherwise. Taking one costs microseconds.
/// Thread safety: plain data.
struct ArenaStats {
  std::size_t capacity = 0;      ///< Pinned now.
  std::size_t max_capacity = 0;  ///< What it may grow to.
  std::size_t in_use = 0;        ///< In buffers and borrows that the program holds.
  std::size_t in_flight = 0;     ///< Released, waiting for the device.
  std::size_t cached = 0;        ///< Free, kept for the threads that used it, and anybody's where memory is short.
  std::size_t largest_free = 0;  ///< The largest free piece, caches not counted.
  std::size_t wasted = 0;        ///< Rounding, and what mimalloc keeps or cannot use.
  std::size_t peak = 0;          ///< The most that was ever taken from the regions, caches included.
  std::size_t regions = 0;       ///< Count of separate registrations.
  std::size_t grown = 0;         ///< How often the arena grew.
  std::size_t buffers_made = 0;  ///< Count, all heaps.
  /// Ordinary memory for the records of buffers, those of all the process's arenas: 96 bytes a buffer, and 64 more for
  /// each stream that uses it. Limits of the machine and the container count for it as for pinned memory.
  std::size_t bookkeeping = 0;
  /// What makes this arena slower than it could be until the process ends, in a sentence; empty: nothing.
  std::string_view trouble;
};

/// Pinned host memory that heaps share: a shared handle, cheap to copy. The memory lives until the last handle, heap,
/// buffer and borrow on it is gone and the device has finished with it; dropping them never waits. Then the memory
/// stays pinned for the next arena of the device that is pinned in the same way, since unpinning stalls the whole
/// process while any stream is busy; `Device::trim_pinned` unpins it, and `Device::keep_pinned` bounds it. An arena's
/// memory is not cleared: it may hold what an earlier arena of the process held. A forked child has none of the memory,
/// unless the driver made it (`PinMethod::host_alloc`). A call of an arena that was moved from throws
/// `Errc::moved_from`.
///
/// Thread safety: all members of one object may be called by many threads at once; assigning it needs exclusive access.
class [[nodiscard]] THOLE_EXPORT PinnedArena {
 public:
  /// Takes memory that an earlier arena left pinned, if some fits, or pins `options.bytes` now, below 512 GiB, which is
  /// what drivers register at once. Pinning blocks for about 60 ms a GiB. Where more stays pinned than may (see
  /// `Device::keep_pinned`), or a limit is met, unpins what no arena has first: that waits as `trim()` does; `try_make`
  /// never does, and says `limit`.
  /// Throws `Error`: `invalid_argument` (0 bytes, max_bytes below bytes, no such NUMA node), `out_of_memory` or `limit`
  /// (says which limit of the machine, its container, its NUMA node or its driver, and how much was wanted),
  /// `device_lost`.
  explicit PinnedArena(const Device& device, const ArenaOptions& options = {});
  [[nodiscard]] static Result<PinnedArena> try_make(const Device& device, const ArenaOptions& options = {}) noexcept;

  Device device() const;
  /// Bytes pinned now.
  std::size_t capacity() const;
  /// Whether the address lies in this arena's memory.
  bool contains(const void* pointer) const;
  ArenaStats stats() const;
  /// Unpins regions that the arena has grown by and that hold nothing; returns bytes. Idle records of buffers
  /// (`ArenaStats::bookkeeping`) go back to the system, too. While any stream of the process
  /// is busy, also with unrelated work, it waits for all of it, and meanwhile copies, records, launches, and making and
  /// destroying streams and events block on every thread. CUDA: "Memory Management", cudaHostUnregister.
  std::size_t trim();
  /// Writes a picture of the arena, block by block, coloured by state, as SVG.
  void draw_svg(std::ostream& out) const;

 private:
  friend class PinnedHeap;
  static Result<PinnedArena> make(const Device& device, const ArenaOptions& options, bool may_unpin) noexcept;
  explicit PinnedArena(std::shared_ptr<detail::ArenaCore> core) noexcept : core_(std::move(core)) {}
  const std::shared_ptr<detail::ArenaCore>& core(const char* call) const;  // throws `moved_from`
  std::shared_ptr<detail::ArenaCore> core_;
};

}  // namespace thole
