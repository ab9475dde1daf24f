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
struct HeapOptions {
  /// Every buffer starts at a multiple of this many bytes: a power of two, at most 4096.
  std::size_t alignment = 64;
  /// Also recycle finished buffers on a thread of the heap's own, every millisecond while something is in flight, and
  /// not only where memory is wanted.
  bool background_reclaim = false;
};

/// A snapshot of a heap: bytes, and counts since it was made.
struct HeapStats {
  std::size_t in_use = 0;     ///< Bytes in buffers and borrows that the program holds.
  std::size_t in_flight = 0;  ///< Bytes dropped that wait for the device.
  std::size_t peak = 0;       ///< Bytes: the most of in_use + in_flight seen by make or by stats().
  std::size_t buffers_made = 0;
  std::size_t freed_at_once = 0;   ///< Drops that found nothing in flight.
  std::size_t deferred = 0;        ///< Drops that had to wait for the device.
  std::size_t recycled = 0;        ///< Deferred ones that came back.
  std::size_t waited = 0;          ///< Allocations that waited for copies in flight.
  std::size_t most_in_flight = 0;  ///< Blocks: the most that were deferred at one time.
};

/// Makes pinned buffers from an arena; a shared handle, cheap to copy. Safe from any thread; buffers may be dropped on
/// any other. Making and dropping take no lock that threads share, but when a thread's cache is empty or full.
class THOLE_EXPORT PinnedHeap {
 public:
  /// Throws `Error` with `Errc::invalid_argument` for an alignment that is no power of two or above 4096.
  explicit PinnedHeap(const PinnedArena& arena, const HeapOptions& options = {});

  /// `count` uninitialised elements. Never waits for the device. Throws `Error`: `out_of_memory` (says how much was
  /// wanted, free, in the largest piece, in flight and in all), `too_large` (more than the arena could ever hold, or an
  /// overflow), `device_lost`.
  template <class T>
  PinnedBuffer<T> make_buffer(std::size_t count, std::source_location where = std::source_location::current()) const {
    if (const auto made = allocate_cached(count, sizeof(T), alignof(T), where); made.block != nullptr) [[likely]]
      return PinnedBuffer<T>(made.block, static_cast<T*>(made.data), count);
    return detail::unwrap(typed<T>(count, allocate(count, sizeof(T), alignof(T), std::nullopt, where)));
  }
  /// `count` copies of `value`.
  template <class T>
  PinnedBuffer<T> make_buffer(std::size_t count, const std::type_identity_t<T>& value,
                              std::source_location where = std::source_location::current()) const {
    auto buffer = make_buffer<T>(count, where);
    std::uninitialized_fill_n(buffer.unsynchronized_data(), count, value);
    return buffer;
  }
  /// The elements of any sized range: std's, range-v3's, a borrow.
  template <class Range>
  auto make_buffer_from(Range&& range, std::source_location where = std::source_location::current()) const {
    using std::begin, std::end, std::size;
    using T = std::remove_cvref_t<decltype(*begin(range))>;
    const auto count = static_cast<std::size_t>(size(range));
    auto buffer = make_buffer<T>(count, where);
    auto from = begin(range);
    for (T *to = buffer.unsynchronized_data(), *const last = to + count; to != last; ++to, ++from)
      std::construct_at(to, *from);
    return buffer;
  }
  /// As `make_buffer`, without throwing.
  template <class T>
  Result<PinnedBuffer<T>> try_make_buffer(std::size_t count,
                                          std::source_location where = std::source_location::current()) const noexcept {
    if (const auto made = allocate_cached(count, sizeof(T), alignof(T), where); made.block != nullptr) [[likely]]
      return PinnedBuffer<T>(made.block, static_cast<T*>(made.data), count);
    return typed<T>(count, allocate(count, sizeof(T), alignof(T), std::nullopt, where));
  }
  /// As `try_make_buffer`, but waits up to `timeout` for copies in flight to give memory back; `Errc::timed_out`.
  template <class T>
  Result<PinnedBuffer<T>> try_make_buffer_for(
      std::size_t count, std::chrono::nanoseconds timeout,
      std::source_location where = std::source_location::current()) const noexcept {
    if (const auto made = allocate_cached(count, sizeof(T), alignof(T), where); made.block != nullptr) [[likely]]
      return PinnedBuffer<T>(made.block, static_cast<T*>(made.data), count);
    return typed<T>(count, allocate(count, sizeof(T), alignof(T), timeout, where));
  }

  /// Recycles every dropped buffer of the device that it has finished with, and returns how many. Never waits for the
  /// device.
  std::size_t collect() const noexcept;
  /// Waits until the device has finished every use of this heap's buffers, and recycles the dropped ones. Throws
  /// `Error`: `device_lost`, `capturing`.
  void drain() const;
  Result<void> try_drain() const noexcept;

  HeapStats stats() const;
  /// What the device still holds, by stream.
  Report report() const;
  PinnedArena arena() const;

 private:
  // From what the thread keeps; no block: nothing was kept, or something is in the way, and allocate() says what.
  detail::Allocation allocate_cached(std::size_t count, std::size_t element_bytes, std::size_t alignment,
                                      const std::source_location& where) const noexcept;
  Result<detail::Allocation> allocate(std::size_t count, std::size_t element_bytes, std::size_t alignment,
                                      std::optional<std::chrono::nanoseconds> timeout,
                                      const std::source_location& where) const noexcept;
  template <class T>
  static Result<PinnedBuffer<T>> typed(std::size_t count, Result<detail::Allocation>&& made) noexcept {
    if (!made) return tl::unexpected(std::move(made.error()));
    return PinnedBuffer<T>(made->block, static_cast<T*>(made->data), count);
  }

  std::shared_ptr<detail::HeapHandle> core_;
};

template <class T>
DeviceBuffer<T>::DeviceBuffer(const StreamRef& stream, std::size_t count)
    : DeviceBuffer(detail::unwrap(try_make(stream, count))) {}

template <class T>
PinnedBuffer<T> DeviceBuffer<T>::async_to_host(const StreamRef& stream, const PinnedHeap& heap) const {
  return detail::unwrap(try_async_to_host(stream, heap));
}

template <class T>
Result<PinnedBuffer<T>> DeviceBuffer<T>::try_async_to_host(const StreamRef& stream,
                                                           const PinnedHeap& heap) const noexcept {
  if (block_ == nullptr) return tl::unexpected(detail::moved_from_error("DeviceBuffer::async_to_host"));
  auto made = heap.try_make_buffer<T>(size_);
  if (made && size_ != 0)
    if (auto copied = detail::copy_from_device(made->block_, 0, size_bytes(), stream, span().side(),
                                               "DeviceBuffer::async_to_host");
        !copied)
      return tl::unexpected(std::move(copied.error()));
  return made;
}

}  // namespace thole
