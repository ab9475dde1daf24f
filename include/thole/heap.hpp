#pragma once

// Defined in: heap.cpp, raw_memory.cpp

#include <cstddef>
#include <optional>

#include <thole/arena.hpp>
#include <thole/buffer.hpp>
#include <thole/detail/std_parts.hpp>
#include <thole/error.hpp>
#include <thole/export.hpp>
#include <thole/report.hpp>
#include <thole/source_location.hpp>

namespace thole::inline v0_1 {

class PinnedHeap;

namespace detail {
class HeapHandle;
/// For adapters whose deallocation cannot fail: as `heap.deallocate(data, stream)` for a stream that others made, on
/// any device; a default stream is the calling thread's current device's. Where that cannot be noted the memory stays
/// allocated, so that `heap.deallocate(data)` can free it, and Device::take_error() says why.
THOLE_EXPORT void deallocate_on_native(const PinnedHeap& heap, void* data, NativeStream stream) noexcept;
struct Allocation {
  BlockHead* block = nullptr;  // nullptr: 0 bytes
  void* data = nullptr;
};
}  // namespace detail

/// What a heap is made with.
/// Thread safety: plain data.
struct HeapOptions {
  /// Every buffer starts at a multiple of this many bytes: a power of two, at most 4096.
  std::size_t alignment = 64;
  /// Also reclaim finished buffers on a thread of the library's own, and not only where memory is wanted. It looks each
  /// millisecond while something is in flight; where nothing is found for a while, an eighth of that while later, and
  /// at least every 64 ms.
  bool background_reclaim = false;
  /// The most bytes of the arena that this heap may have, rounding included; 0: all there is. What the program holds,
  /// what waits for the device, and what threads keep for the heap count alike; before a buffer is refused what they
  /// keep is given back. A refusal is `Errc::limit`; `make_buffer_for` waits for the heap's own buffers. Costs nothing
  /// where a buffer comes from the thread's cache.
  std::size_t max_bytes = 0;
};

/// A snapshot of a heap: bytes, and counts since it was made.
/// Thread safety: plain data.
struct HeapStats {
  std::size_t in_use = 0;          ///< Bytes in buffers and borrows that the program holds.
  std::size_t in_flight = 0;       ///< Bytes released that wait for the device.
  std::size_t peak = 0;            ///< Bytes: the most of in_use + in_flight seen by stats() and by threads that found
                                   ///< their caches empty or full; low by at most what caches keep.
  std::size_t buffers_made = 0;    ///< Count, raw blocks, too.
  std::size_t freed_at_once = 0;   ///< Released with nothing in flight.
  std::size_t deferred = 0;        ///< Retired to a stream: the device still used them.
  std::size_t recycled = 0;        ///< Deferred ones that were reclaimed.
  std::size_t waited = 0;          ///< Allocations that waited for copies in flight.
  std::size_t most_in_flight = 0;  ///< Blocks: the most that were deferred at one time.
  std::size_t max_bytes = 0;       ///< As `HeapOptions` says.
  std::size_t taken = 0;           ///< Of them, what counts now; 0 without `max_bytes`.
};

/// What a raw address is part of.
/// Thread safety: plain data.
struct RawBlock {
  void* data = nullptr;    ///< Where the memory starts.
  std::size_t bytes = 0;   ///< What was asked for.
  bool in_flight = false;  ///< Whether the device may still use it, as far as thole was told.
};

/// Makes pinned buffers from an arena; a shared handle, cheap to copy. Buffers may be dropped on any thread. Making and
/// dropping take no lock that threads share, but when a thread's cache is empty or full. A call of a heap that was
/// moved from throws `Errc::moved_from`.
///
/// Thread safety: const members of one object may be called by many threads at once; others need exclusive access.
class [[nodiscard]] THOLE_EXPORT PinnedHeap {
 public:
  /// Throws `Error` with `Errc::invalid_argument` for an alignment that is no power of two or above 4096.
  explicit PinnedHeap(const PinnedArena& arena, const HeapOptions& options = {});

  /// `count` uninitialised elements. Never waits for the device. Throws `Error`: `out_of_memory` (says how much was
  /// wanted, free, in the largest piece, in flight and in all), `too_large` (more than the arena could ever hold, or an
  /// overflow), `limit` (more than `HeapOptions::max_bytes`), `device_lost`. `location`, here and below, is what
  /// `report()` says of the buffer.
  template <class T>
  PinnedBuffer<T> make_buffer(std::size_t count, SourceLocation location = THOLE_HERE) const {
    if (const auto made = allocate_cached(count, sizeof(T), alignof(T), location); made.block != nullptr) [[likely]]
      return PinnedBuffer<T>(made.block, static_cast<T*>(made.data), count);
    return detail::unwrap(typed<T>(count, allocate(count, sizeof(T), alignof(T), std::nullopt, location)));
  }
  /// As `make_buffer`, without throwing.
  template <class T>
  [[nodiscard]] Result<PinnedBuffer<T>> try_make_buffer(std::size_t count,
                                                        SourceLocation location = THOLE_HERE) const noexcept {
    if (const auto made = allocate_cached(count, sizeof(T), alignof(T), location); made.block != nullptr) [[likely]]
      return PinnedBuffer<T>(made.block, static_cast<T*>(made.data), count);
    return typed<T>(count, allocate(count, sizeof(T), alignof(T), std::nullopt, location));
  }
  /// As `make_buffer`, but where memory is short it waits so long at most for copies in flight to give some back, and
  /// for other threads to drop some: `Errc::timed_out`. With `thole::forever` it waits until there is some: a loader
  /// then needs no ring of buffers of its own. What no wait can help is an error at once (`too_large`, `device_lost`).
  template <class T>
  PinnedBuffer<T> make_buffer_for(std::size_t count, std::chrono::nanoseconds timeout,
                                  SourceLocation location = THOLE_HERE) const {
    return detail::unwrap(try_make_buffer_for<T>(count, timeout, location));
  }
  /// As `make_buffer_for`, without throwing.
  template <class T>
  [[nodiscard]] Result<PinnedBuffer<T>> try_make_buffer_for(std::size_t count, std::chrono::nanoseconds timeout,
                                                            SourceLocation location = THOLE_HERE) const noexcept {
    if (const auto made = allocate_cached(count, sizeof(T), alignof(T), location); made.block != nullptr) [[likely]]
      return PinnedBuffer<T>(made.block, static_cast<T*>(made.data), count);
    return typed<T>(count, allocate(count, sizeof(T), alignof(T), timeout, location));
  }

  /// `count` copies of `value`. Throws as above.
  template <class T>
  PinnedBuffer<T> make_buffer(std::size_t count, const std::type_identity_t<T>& value,
                              SourceLocation location = THOLE_HERE) const {
    return detail::unwrap(try_make_buffer<T>(count, value, location));
  }
  /// As that, without throwing.
  template <class T>
  [[nodiscard]] Result<PinnedBuffer<T>> try_make_buffer(std::size_t count, const std::type_identity_t<T>& value,
                                                        SourceLocation location = THOLE_HERE) const noexcept {
    auto made = try_make_buffer<T>(count, location);
    if (made) std::uninitialized_fill_n(made->unsynchronized_data(), count, value);
    return made;
  }

  /// The elements of any sized range: std's, range-v3's, a borrow. Throws as above, and what the range throws.
  template <class Range>
  auto make_buffer_from(Range&& range, SourceLocation location = THOLE_HERE) const {
    return detail::unwrap(try_make_buffer_from(std::forward<Range>(range), location));
  }
  /// Throws what the range throws, and nothing of its own.
  template <class Range>
  [[nodiscard]] auto try_make_buffer_from(Range&& range, SourceLocation location = THOLE_HERE) const {
    using std::begin, std::end, std::size;
    using T = std::remove_cvref_t<decltype(*begin(range))>;
    const auto count = static_cast<std::size_t>(size(range));
    auto made = try_make_buffer<T>(count, location);
    if (!made) return made;
    auto from = begin(range);
    for (T *to = made->unsynchronized_data(), *const last = to + count; to != last; ++to, ++from)
      std::construct_at(to, *from);
    return made;
  }

  /// Reclaims every released buffer of the device that it has finished with, and returns how many. Never waits for the
  /// device.
  std::size_t collect() const;
  /// Blocks until the device has finished every use of this heap's buffers, and reclaims the released ones. Throws
  /// `Error`: `device_lost`, `capturing`.
  void drain() const;
  /// As `drain()`, for `timeout` at most; `Errc::timed_out`. Asks again and again meanwhile.
  [[nodiscard]] Result<void> drain_for(std::chrono::nanoseconds timeout) const noexcept;

  // ---- Raw addresses, for adapters to interfaces that know nothing else.
  //
  // They are memory without a buffer: nothing checks borrows, and a use is known only where it was recorded. That is
  // what deallocate() trusts: unlike cudaFreeHost, which waits for the device, it takes the memory for free where
  // nobody recorded anything. Addresses are this heap's alone; any thread may use any of them, but one that is being
  // deallocated. A forked child knows none of its parent's.

  /// Pinned memory of `bytes` at a multiple of `alignment` (a power of two, at most 4096); nullptr for 0 bytes. Never
  /// waits for the device. Throws `Error` as `make_buffer`, and `invalid_argument` for an alignment that is none.
  void* allocate(std::size_t bytes, std::size_t alignment = 64, SourceLocation location = THOLE_HERE) const;
  /// As `allocate`, without throwing.
  [[nodiscard]] Result<void*> try_allocate(std::size_t bytes, std::size_t alignment = 64,
                                           SourceLocation location = THOLE_HERE) const noexcept;
  /// Gives the memory back, which starts at the address; it is reused when all recorded uses are done. Never waits.
  /// False for any other address, and of a heap that was moved from; true for nullptr.
  bool deallocate(void* data) const noexcept;
  /// As `deallocate`, and the memory is not reused before the stream has done all that it has been given so far; waits
  /// for room where that is a foreign one whose queue is full. In a capture the graph keeps it, too, and what came
  /// before the capture is known to be done when the stream has been used through thole once more, or its capture was
  /// thole's. Throws `Error` where that cannot be noted, and the memory stays the caller's: the stream is gone, another
  /// thread's or another kind of device's (`invalid_argument`, `moved_from`, `wrong_device`), `device_lost`,
  /// `out_of_memory`.
  bool deallocate(void* data, const StreamRef& stream) const;
  /// As `deallocate`, and the memory is not reused before the arena's device has done all that it has been given so
  /// far, by whomever: also in streams that nobody has told thole of. For memory whose uses nobody recorded, as behind
  /// an interface that used to end in cudaFreeHost; unlike that, it never waits: a thread of the library's own waits
  /// for an event that is behind everything (CUDA: "Context Management", cuCtxRecordEvent). It lets a graph capture
  /// that it sees end first; CUDA lets it see captures in streams of thole's and in those that wait for the legacy
  /// default stream. A capture that CUDA's own call has begun in another one is invalidated by that record: do without
  /// this call beside such. Until it comes back the memory counts as in use; `make_buffer_for` waits for it where it
  /// needs some, `drain()` does not. Throws `Error`, and the memory stays the caller's: `device_lost`, `out_of_memory`
  /// (no memory, or no thread).
  bool deallocate_after_all(void* data) const;
  /// As that, without throwing.
  [[nodiscard]] Result<bool> try_deallocate_after_all(void* data) const noexcept;
  /// Work that was enqueued in the stream just before uses the memory that the address lies in. False where that is not
  /// this heap's. Throws `Error` as above: the use is not known then. In a capture the graph keeps the memory.
  bool record_use(const void* data, const StreamRef& stream, Access::Reads) const;
  /// As that, of work that writes.
  bool record_use(const void* data, const StreamRef& stream, Access::Writes) const;
  /// As those, without throwing.
  [[nodiscard]] Result<bool> try_deallocate(void* data, const StreamRef& stream) const noexcept;
  /// As `record_use`, without throwing.
  [[nodiscard]] Result<bool> try_record_use(const void* data, const StreamRef& stream, Access::Reads) const noexcept;
  /// As `record_use`, without throwing.
  [[nodiscard]] Result<bool> try_record_use(const void* data, const StreamRef& stream, Access::Writes) const noexcept;
  /// Runs `f(NativeStream)`, which enqueues work that reads or writes the memory that the address lies in: ordered
  /// after its earlier uses, and recorded, as `PinnedBuffer::use_on`. Throws as that, and `invalid_argument` for an
  /// address that is not this heap's.
  template <class F>
  void use_on(const void* data, const StreamRef& stream, Access::Reads, F&& f) const {
    run_raw(data, stream, false, std::forward<F>(f));
  }
  /// As that, for work that writes.
  template <class F>
  void use_on(void* data, const StreamRef& stream, Access::Writes, F&& f) const {
    run_raw(data, stream, true, std::forward<F>(f));
  }
  /// What the address is part of; nothing where it is not this heap's, as of a heap that was moved from. Asks the
  /// device, and never waits.
  std::optional<RawBlock> find(const void* data) const noexcept;
  /// Waits until the CPU may read (`device_reads`: until no recorded write goes on) or write (`device_writes`: until no
  /// use does) the memory that the address lies in: `timed_out`, `borrowed` while a function of `use_on` runs that
  /// writes it, `invalid_argument` for other memory, `device_lost`, `capturing`.
  [[nodiscard]] Result<void> try_wait_for(const void* data, Access::Reads,
                                          std::chrono::nanoseconds timeout) const noexcept;
  /// As that, until it may write.
  [[nodiscard]] Result<void> try_wait_for(const void* data, Access::Writes,
                                          std::chrono::nanoseconds timeout) const noexcept;

  /// What it holds now, and has done.
  HeapStats stats() const;
  /// What the device still holds, by stream.
  Report report() const;
  /// The arena that it makes buffers from.
  PinnedArena arena() const;
  /// Whether both handles are of one heap.
  friend bool operator==(const PinnedHeap& one, const PinnedHeap& other) noexcept { return one.core_ == other.core_; }

 private:
  friend void detail::deallocate_on_native(const PinnedHeap&, void*, NativeStream) noexcept;
  void check(const char* call) const;                             // throws `moved_from`
  detail::BlockHead* raw_block(const void* data) const noexcept;  // nullptr: not this heap's
  template <class F>
  void run_raw(const void* data, const StreamRef& stream, bool writes, F&& f) const {
    auto call = [&f](NativeStream native) { std::forward<F>(f)(native); };
    detail::unwrap(use_raw(
        data, stream, writes,
        [](void* context, NativeStream native) { (*static_cast<decltype(call)*>(context))(native); }, &call));
  }
  Result<void> use_raw(const void* data, const StreamRef& stream, bool writes, void (*run)(void*, NativeStream),
                       void* context) const;
  Result<bool> record_raw(const void* data, const StreamRef& stream, bool writes) const noexcept;
  Result<void> wait_raw(const void* data, bool writes, std::chrono::nanoseconds timeout) const noexcept;
  // From this thread's cache. No block: it has none, or something is in the way, and allocate() says what.
  detail::Allocation allocate_cached(std::size_t count, std::size_t element_bytes, std::size_t alignment,
                                     SourceLocation location) const noexcept;
  Result<detail::Allocation> allocate(std::size_t count, std::size_t element_bytes, std::size_t alignment,
                                      std::optional<std::chrono::nanoseconds> timeout,
                                      SourceLocation location) const noexcept;
  Result<void> drain_within(std::optional<std::chrono::nanoseconds> timeout, const char* call) const noexcept;
  template <class T>
  static Result<PinnedBuffer<T>> typed(std::size_t count, Result<detail::Allocation>&& made) noexcept {
    static_assert(!std::is_const_v<T>, "a heap's memory has no contents that could be const");
    if (!made) return tl::unexpected(std::move(made.error()));
    return PinnedBuffer<T>(made->block, static_cast<T*>(made->data), count);
  }

  std::shared_ptr<detail::HeapHandle> core_;
};

template <class T>
PinnedBuffer<T> DeviceBuffer<T>::async_to_host(const StreamRef& stream, const PinnedHeap& heap,
                                               SourceLocation location) const {
  return detail::unwrap(try_async_to_host(stream, heap, location));
}

template <class T>
Result<PinnedBuffer<T>> DeviceBuffer<T>::try_async_to_host(const StreamRef& stream, const PinnedHeap& heap,
                                                           SourceLocation location) const noexcept {
  return fill(stream, [&] { return heap.try_make_buffer<T>(size_, location); });
}

template <class T>
PinnedBuffer<T> DeviceBuffer<T>::async_to_host_for(const StreamRef& stream, const PinnedHeap& heap,
                                                   std::chrono::nanoseconds timeout, SourceLocation location) const {
  return detail::unwrap(try_async_to_host_for(stream, heap, timeout, location));
}

template <class T>
Result<PinnedBuffer<T>> DeviceBuffer<T>::try_async_to_host_for(const StreamRef& stream, const PinnedHeap& heap,
                                                               std::chrono::nanoseconds timeout,
                                                               SourceLocation location) const noexcept {
  return fill(stream, [&] { return heap.try_make_buffer_for<T>(size_, timeout, location); });
}

template <class T>
template <class Make>
Result<PinnedBuffer<T>> DeviceBuffer<T>::fill(const StreamRef& stream, Make make) const noexcept {
  constexpr const char* call = "DeviceBuffer::async_to_host";
  if (!valid_) return tl::unexpected(detail::moved_from(call, "the buffer"));
  auto made = make();
  if (made && size_ != 0)
    if (auto copied = detail::copy_from_device(made->block_, 0, size_bytes(), stream, span().side(), call); !copied)
      return tl::unexpected(std::move(copied.error()));
  return made;
}

}  // namespace thole::inline v0_1
