#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <iterator>
#include <memory>
#include <optional>
#include <ranges>
#include <source_location>

#include <thole/arena.hpp>
#include <thole/buffer.hpp>
#include <thole/error.hpp>
#include <thole/export.hpp>
#include <thole/report.hpp>

namespace thole {

namespace detail {
class HeapHandle;
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
  /// Also reclaim finished buffers on a thread of the library's own, every millisecond while something is in flight,
  /// and not only where memory is wanted.
  bool background_reclaim = false;
};

/// A snapshot of a heap: bytes, and counts since it was made.
/// Thread safety: plain data.
struct HeapStats {
  std::size_t in_use = 0;     ///< Bytes in buffers and borrows that the program holds.
  std::size_t in_flight = 0;  ///< Bytes released that wait for the device.
  std::size_t peak = 0;       ///< Bytes: the most of in_use + in_flight seen by stats() and by threads that found
                              ///< their caches empty or full; low by at most what caches keep.
  std::size_t buffers_made = 0;
  std::size_t freed_at_once = 0;   ///< Released with nothing in flight.
  std::size_t deferred = 0;        ///< Retired to a stream: the device still used them.
  std::size_t recycled = 0;        ///< Deferred ones that were reclaimed.
  std::size_t waited = 0;          ///< Allocations that waited for copies in flight.
  std::size_t most_in_flight = 0;  ///< Blocks: the most that were deferred at one time.
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
  /// overflow), `device_lost`. `location`, here and below, is what `report()` says of the buffer.
  template <class T>
  PinnedBuffer<T> make_buffer(std::size_t count,
                              std::source_location location = std::source_location::current()) const {
    if (const auto made = allocate_cached(count, sizeof(T), alignof(T), location); made.block != nullptr) [[likely]]
      return PinnedBuffer<T>(made.block, static_cast<T*>(made.data), count);
    return detail::unwrap(typed<T>(count, allocate(count, sizeof(T), alignof(T), std::nullopt, location)));
  }
  /// As `make_buffer`, without throwing.
  template <class T>
  [[nodiscard]] Result<PinnedBuffer<T>> try_make_buffer(
      std::size_t count, std::source_location location = std::source_location::current()) const noexcept {
    if (const auto made = allocate_cached(count, sizeof(T), alignof(T), location); made.block != nullptr) [[likely]]
      return PinnedBuffer<T>(made.block, static_cast<T*>(made.data), count);
    return typed<T>(count, allocate(count, sizeof(T), alignof(T), std::nullopt, location));
  }
  /// As `try_make_buffer`, but waits up to `timeout` for copies in flight to give memory back; `Errc::timed_out`.
  template <class T>
  [[nodiscard]] Result<PinnedBuffer<T>> try_make_buffer_for(
      std::size_t count, std::chrono::nanoseconds timeout,
      std::source_location location = std::source_location::current()) const noexcept {
    if (const auto made = allocate_cached(count, sizeof(T), alignof(T), location); made.block != nullptr) [[likely]]
      return PinnedBuffer<T>(made.block, static_cast<T*>(made.data), count);
    return typed<T>(count, allocate(count, sizeof(T), alignof(T), timeout, location));
  }

  /// `count` copies of `value`. Throws as above.
  template <class T>
  PinnedBuffer<T> make_buffer(std::size_t count, const std::type_identity_t<T>& value,
                              std::source_location location = std::source_location::current()) const {
    return detail::unwrap(try_make_buffer<T>(count, value, location));
  }
  template <class T>
  [[nodiscard]] Result<PinnedBuffer<T>> try_make_buffer(
      std::size_t count, const std::type_identity_t<T>& value,
      std::source_location location = std::source_location::current()) const noexcept {
    auto made = try_make_buffer<T>(count, location);
    if (made) std::uninitialized_fill_n(made->unsynchronized_data(), count, value);
    return made;
  }

  /// The elements of any sized range: std's, range-v3's, a borrow. Throws as above, and what the range throws.
  template <class Range>
  auto make_buffer_from(Range&& range, std::source_location location = std::source_location::current()) const {
    return detail::unwrap(try_make_buffer_from(std::forward<Range>(range), location));
  }
  /// Throws what the range throws, and nothing of its own.
  template <class Range>
  [[nodiscard]] auto try_make_buffer_from(Range&& range,
                                          std::source_location location = std::source_location::current()) const {
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

  HeapStats stats() const;
  /// What the device still holds, by stream.
  Report report() const;
  PinnedArena arena() const;

 private:
  void check(const char* call) const;  // throws `moved_from`
  // From this thread's cache. No block: it has none, or something is in the way, and allocate() says what.
  detail::Allocation allocate_cached(std::size_t count, std::size_t element_bytes, std::size_t alignment,
                                     const std::source_location& location) const noexcept;
  Result<detail::Allocation> allocate(std::size_t count, std::size_t element_bytes, std::size_t alignment,
                                      std::optional<std::chrono::nanoseconds> timeout,
                                      const std::source_location& location) const noexcept;
  Result<void> drain_within(std::optional<std::chrono::nanoseconds> timeout, const char* call) const noexcept;
  template <class T>
  static Result<PinnedBuffer<T>> typed(std::size_t count, Result<detail::Allocation>&& made) noexcept {
    if (!made) return tl::unexpected(std::move(made.error()));
    return PinnedBuffer<T>(made->block, static_cast<T*>(made->data), count);
  }

  std::shared_ptr<detail::HeapHandle> core_;
};

template <class T>
PinnedBuffer<T> DeviceBuffer<T>::async_to_host(const StreamRef& stream, const PinnedHeap& heap) const {
  return detail::unwrap(try_async_to_host(stream, heap));
}

template <class T>
Result<PinnedBuffer<T>> DeviceBuffer<T>::try_async_to_host(const StreamRef& stream,
                                                           const PinnedHeap& heap) const noexcept {
  if (block_ == nullptr) return tl::unexpected(detail::moved_from("DeviceBuffer::async_to_host", "the buffer"));
  auto made = heap.try_make_buffer<T>(size_);
  if (made && size_ != 0)
    if (auto copied = detail::copy_from_device(made->block_, 0, size_bytes(), stream, span().side(),
                                               "DeviceBuffer::async_to_host");
        !copied)
      return tl::unexpected(std::move(copied.error()));
  return made;
}

}  // namespace thole
