#pragma once

// Defined in: adopt.cpp, arena.cpp

#include <cstddef>
#include <functional>
#include <iosfwd>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <gsl/span>

#include <thole/buffer.hpp>
#include <thole/detail/std_parts.hpp>
#include <thole/device.hpp>
#include <thole/error.hpp>
#include <thole/export.hpp>
#include <thole/pin_method.hpp>
#include <thole/source_location.hpp>

namespace thole::inline v0_1 {

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
  /// How it becomes pinned.
  PinMethod pin_method = PinMethod::register_pages;
  /// The NUMA node that the memory is bound to: all of it lies there, or the arena cannot be made. Empty: it comes from
  /// the node that the device sits on while that has some, else from any; and from wherever the program's own policy
  /// says, if it has one (set_mempolicy, numactl). With `PinMethod::host_alloc` the driver decides.
  std::optional<int> numa_node = std::nullopt;
  /// Whether a core dump contains the arena's memory. Off, since a crash should not write gigabytes of data to a disk,
  /// and what is in flight says little; switch it on to look at buffers in a debugger afterwards. With
  /// `PinMethod::host_alloc` the driver decides.
  bool in_core_dumps = false;
  /// The constructor pins the first `piece_bytes` only, and returns: a thread of the library's own pins the rest of
  /// `bytes` in pieces of as much, with pauses, so that other threads' calls of CUDA go on meanwhile. Each piece serves
  /// as soon as it is pinned; who wants more than there is pins some itself. `ArenaStats::to_pin` says how much is
  /// still to come. Where the machine, a limit or the driver refuses a piece the arena stays as it is, and
  /// `ArenaStats::pinning_failed` and `Device::take_error` say why; it then grows where memory is wanted. It stops when
  /// all handles of the arena and its heaps are gone, and when the device is lost.
  bool pin_in_background = false;
  /// How much is pinned at a time in the background, in bytes, at least 1; rounded up to whole pages. A buffer lies in
  /// one piece: larger ones are only to be had while so much is not pinned yet, or where pieces are empty.
  std::size_t piece_bytes = std::size_t{256} << 20;
  /// Not 0: what the arena has grown by, beyond `bytes`, is unpinned by a thread of the library's own when nothing has
  /// been in it for so long. That stalls the process as `trim()` does, so that it is put off while streams have work
  /// that thole knows of, up to three times as long. Where the system has no thread for it nothing is unpinned, and
  /// `Device::take_error` says so.
  std::chrono::nanoseconds trim_after{0};
  /// For libraries that register memory themselves, as RDMA, UCX and io_uring do: called with each stretch of pinned
  /// memory that the arena gets, before anything is in it, and with each that it lets go of, when nothing is in it any
  /// more and before it is unpinned. What an arena lets go of may stay pinned for the next one, which is told of it
  /// anew. `added` runs on the thread that makes the arena, makes it grow, or pins in the background; `removed`, where
  /// the arena is trimmed or lets go of a region to grow by a larger one, on that thread, and at the arena's end on a
  /// thread of the library's own: what the functions need they should hold, for instance as a shared_ptr. They are
  /// destroyed after the last call. When the process ends, or the device is lost with copies in flight, the arena's end
  /// may never be told.
  ///
  /// Where `added` throws, the arena does not grow, or is not made: the Error says what was thrown, with its code where
  /// that was an Error, else `limit`. What `removed` throws goes to `Device::take_error`. Both may call thole, but must
  /// not make their own arena grow, or trim it (`invalid_argument`), nor wait for a thread that wants its memory.
  std::function<void(gsl::span<std::byte>)> on_region_added = {};
  /// As said above, of a stretch that it lets go of.
  std::function<void(gsl::span<std::byte>)> on_region_removed = {};
};

/// How memory of the program's own is taken over by `PinnedArena::adopt` and `adopt_buffer`.
/// Thread safety: plain data.
struct AdoptOptions {
  /// The program has pinned all of it, as cudaHostAlloc or cudaHostRegister do, and unpins it after `release`; thole
  /// neither pins nor unpins. Memory that is not pinned, though this says so, is copied as any: slowly, and to it the
  /// device's copies block.
  bool already_pinned = false;
};

/// A snapshot of an arena, in bytes where it does not say otherwise. Taking one costs microseconds.
/// Thread safety: plain data.
struct ArenaStats {
  std::size_t capacity = 0;      ///< Pinned now.
  std::size_t max_capacity = 0;  ///< What it may grow to.
  std::size_t in_use = 0;        ///< In buffers and borrows that the program holds.
  std::size_t in_flight = 0;     ///< Released, waiting for the device.
  std::size_t cached = 0;        ///< Free, kept for the threads that used it, and anybody's where memory is short.
  /// What one buffer can have of what is free, caches not counted: the most, or, of thousands of pieces, nearly.
  std::size_t largest_free = 0;
  std::size_t wasted = 0;        ///< Rounding, which `in_use` counts, too, and what mimalloc keeps or cannot use.
  std::size_t peak = 0;          ///< The most that was ever taken from the regions, caches included.
  std::size_t regions = 0;       ///< Count of separate registrations.
  std::size_t grown = 0;         ///< How often the arena grew.
  std::size_t buffers_made = 0;  ///< Count, all heaps.
  /// Ordinary memory for the records of buffers, those of all the process's arenas: 96 bytes a buffer, 64 more for
  /// each stream that uses it, and 8 to 16 for an address that `PinnedHeap::allocate` has given away, where there are
  /// many: the first in 64 KiB of addresses takes up to 8 KiB. Limits of the machine and the container count for it as
  /// for pinned memory.
  std::size_t bookkeeping = 0;
  /// What makes this arena slower than it could be until the process ends, in a sentence; empty: nothing.
  std::string_view trouble;
  /// Bytes that a thread of the library's own has still to pin (`ArenaOptions::pin_in_background`).
  std::size_t to_pin = 0;
  std::string pinning_failed;  ///< Why it has stopped before; else empty.
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
  /// Takes memory that an earlier arena left pinned, if some fits, or pins `options.bytes` now: from 512 GiB on, which
  /// drivers do not register at once, in several stretches, and no buffer is larger than one of them. Pinning blocks
  /// for about 60 ms a GiB. Where more stays pinned than may (see `Device::keep_pinned`), a limit is met, or arenas
  /// that grow a little each time would take ever more addresses, unpins what no arena has first: that waits as
  /// `trim()` does; `try_make` never does, and says `limit`.
  /// Throws `Error`: `invalid_argument` (0 bytes, max_bytes below bytes, no such NUMA node), `out_of_memory` or `limit`
  /// (says which limit of the machine, its container, its NUMA node or its driver, and how much was wanted),
  /// `device_lost`.
  explicit PinnedArena(const Device& device, const ArenaOptions& options = {});
  /// As the constructor, without throwing, and it unpins nothing.
  [[nodiscard]] static Result<PinnedArena> try_make(const Device& device, const ArenaOptions& options = {}) noexcept;

  /// The device that it was made for.
  Device device() const;
  /// Bytes pinned now.
  std::size_t capacity() const;
  /// Whether the address lies in this arena's memory.
  bool contains(const void* pointer) const;
  /// What it holds now.
  ArenaStats stats() const;
  /// Unpins regions that the arena has grown by and that hold nothing; returns bytes. Idle records of buffers
  /// (`ArenaStats::bookkeeping`) go back to the system, too. While any stream of the process
  /// is busy, also with unrelated work, it waits for all of it, and meanwhile copies, records, launches, and making and
  /// destroying streams and events block on every thread. CUDA: "Memory Management", cudaHostUnregister.
  /// In a function that is told of this arena's regions it throws `Error` with `Errc::invalid_argument`.
  std::size_t trim();
  /// The pinned stretches of memory that it has now, in no order. Each is one registration, and stays until `trim()`, a
  /// growth, or the arena's end; `ArenaOptions::on_region_removed` says when. A read-only arena's must not be written.
  std::vector<gsl::span<std::byte>> regions() const;

  /// Writes a picture of the arena as SVG: addresses by row, blocks coloured by state, and of each, where the mouse
  /// points at it, its size, where it was made, and which streams use it for how long.
  void draw_svg(std::ostream& out) const;

  // ---- Memory that the program has already: a mapped file, /dev/shm, another allocator's.
  //
  // The caller keeps it mapped, its pages in place and, where it is a file, as long as it is, until `release` is
  // called: once, with nothing pinned any more, after the last handle, buffer, borrow and use is gone. It is called on
  // a thread of the library's own, since unpinning waits for all running work of the process, and holds up nearly
  // every call meanwhile (see `trim()`); what it throws goes to `Device::take_error`. It is not called when the process
  // ends before, in a forked child, or where a device is lost with the memory in use. Where adopting fails nothing is
  // pinned, the memory stays the caller's, and `release` is never called. `release` may be empty.
  //
  // A forked child gets of these pages what the program's own settings (madvise) say; its parent's are not shared.
  // Another process that has the same file or /dev/shm mapped pins its own view. Nothing is cleared or copied.

  /// An arena over that memory, which serves buffers and never grows. It starts at a page and is whole pages. Throws
  /// `Error`: `invalid_argument` (that is not so, or the device refuses it: not all mapped and writable, or pinned
  /// already; with the device's words), `limit`, `out_of_memory`, `device_lost`, `moved_from`. Does not wait for the
  /// device; pinning 4 GiB of a mapped file takes about 130 ms.
  static PinnedArena adopt(const Device& device, gsl::span<std::byte> memory, std::function<void()> release,
                           const AdoptOptions& options = {});
  /// A read-only one, over memory that need not be writable: no heap can be made on it, but `view()`. It may start
  /// anywhere and have any size, but 0.
  static PinnedArena adopt(const Device& device, gsl::span<const std::byte> memory, std::function<void()> release,
                           const AdoptOptions& options = {});
  /// As `adopt`, without throwing.
  [[nodiscard]] static Result<PinnedArena> try_adopt(const Device& device, gsl::span<std::byte> memory,
                                                     std::function<void()> release,
                                                     const AdoptOptions& options = {}) noexcept;
  /// As `adopt`, without throwing.
  [[nodiscard]] static Result<PinnedArena> try_adopt(const Device& device, gsl::span<const std::byte> memory,
                                                     std::function<void()> release,
                                                     const AdoptOptions& options = {}) noexcept;

  /// A buffer of all the memory of a read-only arena; there may be several, and each may be split into parts. Throws
  /// `Error`: `invalid_argument` where the arena is not read-only, or its memory is no whole number of aligned `T`.
  template <class T>
  PinnedBuffer<const T> view(SourceLocation location = THOLE_HERE) const {
    return detail::unwrap(try_view<T>(location));
  }
  /// As `view`, without throwing.
  template <class T>
  [[nodiscard]] Result<PinnedBuffer<const T>> try_view(SourceLocation location = THOLE_HERE) const noexcept {
    auto block = whole_block(sizeof(T), alignof(T), location);
    if (!block) return tl::unexpected(std::move(block.error()));
    return PinnedBuffer<const T>(block->head, static_cast<const T*>(block->data), block->bytes / sizeof(T));
  }

  /// One buffer of all of `data`, where it lies, which may be anywhere: the pages around it are pinned. With borrows
  /// and uses as any other buffer's, and `release` as above. A span of const elements gives a buffer that can only be
  /// read, by the CPU and by the device, of memory that need not be writable. CUDA: "Memory Management",
  /// cudaHostRegister and cudaHostRegisterReadOnly, which devices without cudaDevAttrHostRegisterReadOnlySupported do
  /// not know: there the memory must be writable, though nothing writes it. Throws `Error` as `adopt`; an empty span is
  /// `invalid_argument`.
  template <class T>
  static PinnedBuffer<T> adopt_buffer(const Device& device, gsl::span<T> data, std::function<void()> release,
                                      const AdoptOptions& options = {}, SourceLocation location = THOLE_HERE) {
    return detail::unwrap(try_adopt_buffer(device, data, std::move(release), options, location));
  }
  /// As `adopt_buffer`, without throwing.
  template <class T>
  [[nodiscard]] static Result<PinnedBuffer<T>> try_adopt_buffer(const Device& device, gsl::span<T> data,
                                                                std::function<void()> release,
                                                                const AdoptOptions& options = {},
                                                                SourceLocation location = THOLE_HERE) noexcept {
    auto block = adopt_block(device, {data.data(), data.size_bytes(), !std::is_const_v<T>}, std::move(release), options,
                             location);
    if (!block) return tl::unexpected(std::move(block.error()));
    return PinnedBuffer<T>(*block, data.data(), data.size());
  }

 private:
  friend class PinnedHeap;
  struct Memory {
    const void* data;
    std::size_t bytes;
    bool writable;
  };
  struct WholeBlock {
    detail::BlockHead* head;
    void* data;
    std::size_t bytes;
  };
  static Result<PinnedArena> make(const Device& device, const ArenaOptions& options, bool may_unpin) noexcept;
  static Result<PinnedArena> adopt_memory(const Device& device, const Memory& memory, std::function<void()>&& release,
                                          const AdoptOptions& options) noexcept;
  static Result<detail::BlockHead*> adopt_block(const Device& device, const Memory& memory,
                                                std::function<void()>&& release, const AdoptOptions& options,
                                                SourceLocation location) noexcept;
  Result<WholeBlock> whole_block(std::size_t element_bytes, std::size_t alignment,
                                 SourceLocation location) const noexcept;
  explicit PinnedArena(std::shared_ptr<detail::ArenaCore> core) noexcept : core_(std::move(core)) {}
  const std::shared_ptr<detail::ArenaCore>& core(const char* call) const;  // throws `moved_from`
  std::shared_ptr<detail::ArenaCore> core_;
};

}  // namespace thole::inline v0_1
