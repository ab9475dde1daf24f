#pragma once

// Defined in: device_buffer.cpp, heap.hpp

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <type_traits>
#include <utility>
#include <vector>

#include <gsl/span>

#include <thole/detail/parts.hpp>
#include <thole/detail/std_parts.hpp>
#include <thole/error.hpp>
#include <thole/export.hpp>
#include <thole/parts.hpp>
#include <thole/source_location.hpp>
#include <thole/stream.hpp>

namespace thole::inline v0_1 {

class PinnedHeap;
template <class T>
class PinnedBuffer;

namespace detail {

struct DeviceBlock;
struct ListAccess;

/// What buffers hold. A concept, so that compilers name the T that is none.
template <class T>
concept CopiedAsBytes = std::is_trivially_copyable_v<T> && !std::is_const_v<T> && !std::is_volatile_v<T>;

THOLE_EXPORT Result<DeviceBlock*> make_device_block(const StreamRef& stream, std::size_t count,
                                                    std::size_t element_bytes) noexcept;
THOLE_EXPORT void* device_block_data(const DeviceBlock* block) noexcept;
THOLE_EXPORT const void* device_block_device(const DeviceBlock* block) noexcept;
THOLE_EXPORT void drop_device_block(DeviceBlock* block) noexcept;
THOLE_EXPORT void drop_device_handle(DeviceBlock* block) noexcept;
/// Which life of its record the block has, for spans that may outlive it.
THOLE_EXPORT std::uint32_t device_block_generation(const DeviceBlock* block) noexcept;
/// The identity of a device, for DeviceSpan::from_native. Throws `moved_from`.
THOLE_EXPORT const void* device_key(const Device& device);

/// The device's side of a copy.
struct DeviceSide {
  void* data = nullptr;
  const void* device = nullptr;  // the identity of its device
  DeviceBlock* block = nullptr;  // nullptr: memory that thole does not know
  std::uint32_t generation = 0;  // of the block
};

}  // namespace detail

/// A view of `size()` elements in the memory of one device. It cannot be read on the host. Trivially copyable. A span
/// of a `DeviceBuffer` knows that buffer: a copy through it is a use of the buffer, and says `invalid_argument` when
/// that is gone. The memory behind any other span must live, and be ordered, as the program sees to it.
///
/// Thread safety: const members of one object may be called by many threads at once; others need exclusive access.
template <class T>
class [[nodiscard]] DeviceSpan {
 public:
  DeviceSpan() = default;
  /// A view of memory that other code allocated on that device, such as PyTorch or cudaMalloc. Throws `Error`:
  /// `moved_from`.
  static DeviceSpan from_native(const Device& device, T* data, std::size_t size) {
    return DeviceSpan(data, size, detail::device_key(device));
  }
  /// From T to const T.
  template <class U>
  requires(std::is_same_v<const U, T> && !std::is_same_v<U, T>) DeviceSpan(DeviceSpan<U> other)
  noexcept
      : data_(other.data_),
        size_(other.size_),
        device_(other.device_),
        block_(other.block_),
        generation_(other.generation_) {}

  /// All of a buffer, so that it can be named itself: `pinned.async_to_device(stream, memory)`.
  template <class Buffer>
  requires(std::is_same_v<std::remove_const_t<Buffer>, DeviceBuffer<std::remove_const_t<T>>> &&
           (std::is_const_v<T> || !std::is_const_v<Buffer>)) DeviceSpan(Buffer& buffer)
  noexcept : DeviceSpan(buffer.span()) {}
  /// One that is about to go has no span.
  template <class Buffer>
  requires(std::is_same_v<std::remove_const_t<Buffer>, DeviceBuffer<std::remove_const_t<T>>>)
      DeviceSpan(const Buffer&& buffer)
  = delete;

  /// The device address, for kernels and raw CUDA calls.
  T* native() const noexcept { return data_; }
  /// Elements.
  std::size_t size() const noexcept { return size_; }
  /// Bytes.
  std::size_t size_bytes() const noexcept { return size_ * sizeof(T); }
  /// Whether there are no elements.
  bool empty() const noexcept { return size_ == 0; }
  /// `count` elements from `offset` on; throws `Error` with `Errc::invalid_argument` where they are not all inside.
  DeviceSpan subspan(std::size_t offset, std::size_t count) const {
    if (offset > size_ || count > size_ - offset) detail::throw_outside("DeviceSpan::subspan", offset, count, size_);
    DeviceSpan part = *this;
    part.data_ += offset;
    part.size_ = count;
    return part;
  }
  /// The same memory as bytes.
  DeviceSpan<const std::byte> as_bytes() const noexcept { return bytes<const std::byte>(); }
  /// As that, to write.
  DeviceSpan<std::byte> as_writable_bytes() const noexcept requires(!std::is_const_v<T>) { return bytes<std::byte>(); }
  /// Which device, as an opaque identity.
  const void* device() const noexcept { return device_; }

 private:
  template <class U>
  friend class DeviceBuffer;
  template <class U>
  friend class DeviceSpan;
  template <class U>
  friend class PinnedBuffer;
  friend struct detail::ListAccess;
  DeviceSpan(T* data, std::size_t size, const void* device) noexcept : data_(data), size_(size), device_(device) {}
  DeviceSpan(T* data, std::size_t size, detail::DeviceBlock* block) noexcept
      : data_(data),
        size_(size),
        device_(detail::device_block_device(block)),
        block_(block),
        generation_(detail::device_block_generation(block)) {}
  template <class Byte>
  DeviceSpan<Byte> bytes() const noexcept {
    DeviceSpan<Byte> all;
    all.data_ = reinterpret_cast<Byte*>(data_);
    all.size_ = size_bytes();
    all.device_ = device_;
    all.block_ = block_;
    all.generation_ = generation_;
    return all;
  }
  detail::DeviceSide side() const noexcept {
    return {const_cast<std::remove_const_t<T>*>(data_), device_, block_, generation_};
  }

  T* data_ = nullptr;
  std::size_t size_ = 0;
  const void* device_ = nullptr;
  detail::DeviceBlock* block_ = nullptr;  // nullptr: not of a DeviceBuffer
  std::uint32_t generation_ = 0;
};

/// Owns `size()` elements of device memory; move-only. Allocated in the order of the stream it was made on and freed
/// after the last work that thole enqueued for it, on whatever streams: neither waits, but for room where it was made
/// on a foreign stream whose queue is full, and no stream does because of it. Work that the program itself enqueues on
/// another stream must be ordered before the drop by the program, as with cudaFreeAsync. A foreign stream that a
/// DeviceBuffer was made on must outlive it. CUDA: "Stream Ordered Memory Allocator".
///
/// Thread safety: const members of one object may be called by many threads at once; others need exclusive access.
template <class T>
class [[nodiscard]] DeviceBuffer {
  static_assert(detail::CopiedAsBytes<T>, "a copy engine moves bytes: T must be trivially copyable, and not const");

 public:
  /// `count` uninitialised elements. Throws `Error`: `out_of_memory`, `too_large`, `device_lost`.
  DeviceBuffer(const StreamRef& stream, std::size_t count) : DeviceBuffer(detail::unwrap(try_make(stream, count))) {}
  /// As the constructor, without throwing.
  [[nodiscard]] static Result<DeviceBuffer> try_make(const StreamRef& stream, std::size_t count) noexcept {
    auto block = detail::make_device_block(stream, count, sizeof(T));
    if (!block) return tl::unexpected(std::move(block.error()));
    return DeviceBuffer(*block, count);
  }
  /// An empty one, as a place for a buffer to be moved to: a member, an element. Valid in every call, as any of 0
  /// elements; of no device.
  DeviceBuffer() noexcept = default;
  DeviceBuffer(DeviceBuffer&& other) noexcept
      : block_(std::exchange(other.block_, nullptr)),
        size_(std::exchange(other.size_, 0)),
        valid_(std::exchange(other.valid_, false)) {}
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    DeviceBuffer moved(std::move(other));
    std::swap(block_, moved.block_);
    std::swap(size_, moved.size_);
    std::swap(valid_, moved.valid_);
    return *this;
  }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;
  ~DeviceBuffer() {
    if (block_ != nullptr) detail::drop_device_handle(block_);
  }

  /// Elements.
  std::size_t size() const noexcept { return size_; }
  /// Bytes.
  std::size_t size_bytes() const noexcept { return size_ * sizeof(T); }
  /// Whether there are no elements.
  bool empty() const noexcept { return size_ == 0; }
  /// The elements, for kernels and for `PinnedBuffer`'s copies; valid while this buffer lives. Empty when moved from.
  DeviceSpan<T> span() noexcept { return block_ == nullptr ? DeviceSpan<T>() : DeviceSpan<T>(data(), size_, block_); }
  /// As that, to be read.
  DeviceSpan<const T> span() const noexcept {
    return block_ == nullptr ? DeviceSpan<const T>() : DeviceSpan<const T>(data(), size_, block_);
  }

  /// A new pinned buffer from `heap` that the stream fills with a copy of this one; returns at once. The stream is
  /// ordered after the copy that filled this buffer. Throws `Error`: `out_of_memory`, `device_lost`, `moved_from`.
  PinnedBuffer<T> async_to_host(const StreamRef& stream, const PinnedHeap& heap,
                                SourceLocation location = THOLE_HERE) const;
  /// As `async_to_host`, without throwing.
  [[nodiscard]] Result<PinnedBuffer<T>> try_async_to_host(const StreamRef& stream, const PinnedHeap& heap,
                                                          SourceLocation location = THOLE_HERE) const noexcept;
  /// As `async_to_host`, but where pinned memory is short it waits for some so long at most, as
  /// `PinnedHeap::make_buffer_for` does: `Errc::timed_out`. The time is that of the wait for memory: where the stream's
  /// queue is full, enqueueing the copy waits as CUDA does.
  PinnedBuffer<T> async_to_host_for(const StreamRef& stream, const PinnedHeap& heap, std::chrono::nanoseconds timeout,
                                    SourceLocation location = THOLE_HERE) const;
  /// As `async_to_host_for`, without throwing.
  [[nodiscard]] Result<PinnedBuffer<T>> try_async_to_host_for(const StreamRef& stream, const PinnedHeap& heap,
                                                              std::chrono::nanoseconds timeout,
                                                              SourceLocation location = THOLE_HERE) const noexcept;

  /// Two buffers of the first `n` elements and of the rest, that share this one's memory; this one is moved from, and
  /// its spans are dangling. Each is a DeviceBuffer as any, with uses of its own, so that streams that use different
  /// parts do not wait for each other; what still uses this one uses both. The memory is freed as this one's would
  /// have been, when all parts are gone. `join` makes one of them again. Does not wait. Throws `Error`, and nothing has
  /// changed then: `invalid_argument` beyond the end, `borrowed` while a graph (after its end until
  /// `PinnedHeap::drain()`, or shortly), a `UseList` or a call has the buffer, `out_of_memory`, `moved_from`.
  std::pair<DeviceBuffer, DeviceBuffer> split_at(std::size_t n) && {
    return detail::unwrap(std::move(*this).try_split_at(n));
  }
  /// As `split_at`, without throwing.
  [[nodiscard]] Result<std::pair<DeviceBuffer, DeviceBuffer>> try_split_at(std::size_t n) && noexcept {
    return detail::PartAccess::split_at(*this, n, "DeviceBuffer::split_at");
  }
  /// As `split_at`, into as many parts as there are sizes, in elements, which are all of the buffer together.
  std::vector<DeviceBuffer> split(gsl::span<const std::size_t> sizes) && {
    return detail::unwrap(std::move(*this).try_split(sizes));
  }
  /// As that: `split({a, b, c})`.
  std::vector<DeviceBuffer> split(std::initializer_list<std::size_t> sizes) && {
    return std::move(*this).split(gsl::span<const std::size_t>(sizes.begin(), sizes.size()));
  }
  /// As that, without throwing.
  [[nodiscard]] Result<std::vector<DeviceBuffer>> try_split(gsl::span<const std::size_t> sizes) && noexcept {
    return detail::PartAccess::split(*this, sizes, "DeviceBuffer::split");
  }

 private:
  friend class PinnedBuffer<T>;
  friend class PinnedBuffer<const T>;
  friend struct detail::ListAccess;
  friend struct detail::PartAccess;
  DeviceBuffer(detail::DeviceBlock* block, std::size_t size) noexcept : block_(block), size_(size) {}
  T* data() const noexcept { return static_cast<T*>(detail::device_block_data(block_)); }
  // ---- For detail::PartAccess
  using PartBlock = detail::DeviceBlock;
  static constexpr std::size_t element_bytes = sizeof(T);
  static DeviceBuffer of_part(detail::DeviceBlock* block, std::size_t size) noexcept {
    return DeviceBuffer(block, size);
  }
  void be_moved_from() noexcept {
    block_ = nullptr;
    size_ = 0;
    valid_ = false;
  }
  /// What `make()` returns, filled by the stream.
  template <class Make>
  Result<PinnedBuffer<T>> fill(const StreamRef& stream, Make make) const noexcept;

  detail::DeviceBlock* block_ = nullptr;  // nullptr: default-constructed or moved from
  std::size_t size_ = 0;
  bool valid_ = true;
};

}  // namespace thole::inline v0_1
