#pragma once

#include <cstddef>
#include <functional>
#include <initializer_list>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include <gsl/span>

#include <thole/borrow.hpp>
#include <thole/detail/parts.hpp>
#include <thole/detail/returning.hpp>
#include <thole/detail/std_parts.hpp>
#include <thole/device_buffer.hpp>
#include <thole/error.hpp>
#include <thole/export.hpp>
#include <thole/parts.hpp>
#include <thole/stream.hpp>

namespace thole::inline v0_1 {

class PinnedArena;
class PinnedHeap;
namespace detail {
struct ListAccess;
}

/// What the device does with a buffer in `use_on`. A write may also read.
struct Access {
  struct Reads {};
  struct Writes {};
  /// The device reads.
  static constexpr Reads device_reads{};
  /// The device writes, and may read.
  static constexpr Writes device_writes{};
};
constexpr Access::Writes operator|(Access::Reads, Access::Writes) noexcept { return {}; }
constexpr Access::Writes operator|(Access::Writes, Access::Reads) noexcept { return {}; }

namespace detail {

/// Runs `run(context, stream)`, which enqueues work that uses the block, as one use; records it also when `run` throws.
/// Before that it moves `*place`, an address in the block, to where the device finds it. nullptr: a block of 0
/// elements.
THOLE_EXPORT Result<void> use_on(BlockHead* block, const StreamRef& stream, bool writes,
                                 void (*run)(void* context, thole::NativeStream stream), void* context,
                                 const void** place);

// The untyped halves of PinnedBuffer. None blocks but wait_*, begin_read and begin_write; sizes are bytes. `call` names
// who asks, such as "PinnedBuffer::borrow", in errors.
THOLE_EXPORT Result<void> try_begin_read(BlockHead* block, const char* call) noexcept;
THOLE_EXPORT Result<void> try_begin_write(BlockHead* block, const char* call) noexcept;
THOLE_EXPORT Result<void> begin_read(BlockHead* block, const char* call) noexcept;   // waits for device writes
THOLE_EXPORT Result<void> begin_write(BlockHead* block, const char* call) noexcept;  // waits for all uses
/// As those two, for so long at most.
THOLE_EXPORT Result<void> begin_read_for(BlockHead* block, std::chrono::nanoseconds timeout, const char* call) noexcept;
THOLE_EXPORT Result<void> begin_write_for(BlockHead* block, std::chrono::nanoseconds timeout,
                                          const char* call) noexcept;
THOLE_EXPORT Result<void> wait_for_uses(BlockHead* block, std::optional<std::chrono::nanoseconds> timeout,
                                        const char* call) noexcept;
THOLE_EXPORT bool has_open_uses(const BlockHead* block) noexcept;
inline void drop_handle(BlockHead* block) noexcept {
  if (block->holders.drop_handle()) [[likely]]
    release(block);
}
THOLE_EXPORT Result<void> copy_to_device(BlockHead* block, std::size_t offset, std::size_t bytes,
                                         const StreamRef& stream, const DeviceSide& destination) noexcept;
THOLE_EXPORT Result<void> copy_from_device(BlockHead* block, std::size_t offset, std::size_t bytes,
                                           const StreamRef& stream, const DeviceSide& source,
                                           const char* call) noexcept;
/// New device memory, filled with all `bytes` of the block by the same piece of work.
THOLE_EXPORT Result<DeviceBlock*> copy_to_new_device_block(BlockHead* block, std::size_t bytes,
                                                           const StreamRef& stream) noexcept;
THOLE_EXPORT Error too_small_error(const char* call, std::size_t wanted, std::size_t has);

}  // namespace detail

/// Owns `size()` elements of pinned memory; move-only. `T` is trivially copyable. The CPU sees the elements through
/// borrows; the device through copies and `use_on`. Dropping the buffer never waits: memory that the device still uses
/// is recycled when it is done, not before.
///
/// A `PinnedBuffer<const T>`, which `PinnedArena::adopt_buffer` and `view` give, has no call that writes.
///
/// Rules, checked in every build, as with Rust's RefCell: any number of `Borrow`s or one `BorrowMut`; no device read
/// while a `BorrowMut` lives; no device write while any borrow lives (`Errc::borrowed`). While the device reads, the
/// CPU may read too; while it writes, the CPU waits. A device write is ordered after earlier uses on other streams,
/// and any use after earlier writes, by the device itself: only `borrow`, `borrow_mut`, `wait` and `wait_for` wait for
/// the device. A copy can block only while the stream's queue is full.
///
/// An empty buffer (of 0 elements), as a default-constructed one is, is valid in every call. A moved-from one throws
/// `Errc::moved_from`.
///
/// Thread safety: const members of one object may be called by many threads at once; others need exclusive access.
/// Borrows may end on other threads.
///
/// In a graph capture, a copy becomes a node and the memory lives until the graph and all its executables are gone.
/// Launches through <thole/graph.hpp> are uses; those that the program makes itself are not seen: name what they use
/// (`thole::launch`), or synchronise with them before you borrow.
template <class T>
class [[nodiscard]] PinnedBuffer {
  static_assert(detail::CopiedAsBytes<std::remove_const_t<T>>,
                "a copy engine moves bytes: T must be trivially copyable, and not volatile");
  static constexpr bool writable = !std::is_const_v<T>;

 public:
  /// Of an element.
  using value_type = std::remove_const_t<T>;

  /// An empty one, as a place for a buffer to be moved to: a member, an element.
  PinnedBuffer() noexcept : PinnedBuffer(nullptr, nullptr, 0) {}
  PinnedBuffer(PinnedBuffer&& other) noexcept
      : block_(std::exchange(other.block_, nullptr)),
        span_(std::exchange(other.span_, {})),
        valid_(std::exchange(other.valid_, false)) {}
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept {
    PinnedBuffer moved(std::move(other));
    std::swap(block_, moved.block_);
    std::swap(span_, moved.span_);
    std::swap(valid_, moved.valid_);
    return *this;
  }
  PinnedBuffer(const PinnedBuffer&) = delete;
  PinnedBuffer& operator=(const PinnedBuffer&) = delete;
  ~PinnedBuffer() {
    if (block_ != nullptr) detail::drop_handle(block_);
  }

  /// Elements.
  std::size_t size() const noexcept { return span_.size(); }
  /// Bytes.
  std::size_t size_bytes() const noexcept { return span_.size_bytes(); }
  /// Whether there are no elements.
  bool empty() const noexcept { return span_.empty(); }

  /// Read access. Blocks until the device's last write to this buffer is done; not for reads, nor for later work in
  /// that stream. Throws `Error`: `borrowed` while a `BorrowMut` lives, `device_lost`, `moved_from`, `capturing` when
  /// the write's stream captures now and the write was not covered before.
  Borrow<T> borrow() const {
    if (block_ == nullptr || !detail::begin_untouched<false>(block_)) [[unlikely]] {
      check("PinnedBuffer::borrow");
      if (block_ != nullptr) detail::unwrap(detail::begin_read(block_, "PinnedBuffer::borrow"));
    }
    return Borrow<T>(block_, span_);
  }
  /// Exclusive access. Blocks until every use of this buffer by the device is done. Throws as `borrow()`, and
  /// `borrowed` while any borrow lives.
  BorrowMut<T> borrow_mut() requires(writable) {
    if (block_ == nullptr || !detail::begin_untouched<true>(block_)) [[unlikely]] {
      check("PinnedBuffer::borrow_mut");
      if (block_ != nullptr) detail::unwrap(detail::begin_write(block_, "PinnedBuffer::borrow_mut"));
    }
    return BorrowMut<T>(block_, span_);
  }
  /// As `borrow()`, but never waits: returns `Errc::in_flight` where `borrow()` would wait.
  [[nodiscard]] Result<Borrow<T>> try_borrow() const noexcept {
    if (!valid_) return tl::unexpected(detail::moved_from("PinnedBuffer::try_borrow", "the buffer"));
    if (block_ != nullptr)
      if (auto began = detail::try_begin_read(block_, "PinnedBuffer::try_borrow"); !began)
        return tl::unexpected(std::move(began.error()));
    return Borrow<T>(block_, span_);
  }
  /// As `borrow_mut()`, but never waits.
  [[nodiscard]] Result<BorrowMut<T>> try_borrow_mut() noexcept requires(writable) {
    if (!valid_) return tl::unexpected(detail::moved_from("PinnedBuffer::try_borrow_mut", "the buffer"));
    if (block_ != nullptr)
      if (auto began = detail::try_begin_write(block_, "PinnedBuffer::try_borrow_mut"); !began)
        return tl::unexpected(std::move(began.error()));
    return BorrowMut<T>(block_, span_);
  }

  /// As `borrow()`, but waits so long at most, `thole::forever` for as long as it takes: `Errc::timed_out`. A borrow
  /// that is in the way is an error at once. Returns the error instead of throwing it.
  [[nodiscard]] Result<Borrow<T>> try_borrow_for(std::chrono::nanoseconds timeout) const noexcept {
    constexpr const char* call = "PinnedBuffer::try_borrow_for";
    if (!valid_) return tl::unexpected(detail::moved_from(call, "the buffer"));
    if (block_ != nullptr)
      if (auto began = detail::begin_read_for(block_, timeout, call); !began)
        return tl::unexpected(std::move(began.error()));
    return Borrow<T>(block_, span_);
  }
  /// As `borrow_mut()`, but waits so long at most; else as `try_borrow_for`.
  [[nodiscard]] Result<BorrowMut<T>> try_borrow_mut_for(std::chrono::nanoseconds timeout) noexcept requires(writable) {
    constexpr const char* call = "PinnedBuffer::try_borrow_mut_for";
    if (!valid_) return tl::unexpected(detail::moved_from(call, "the buffer"));
    if (block_ != nullptr)
      if (auto began = detail::begin_write_for(block_, timeout, call); !began)
        return tl::unexpected(std::move(began.error()));
    return BorrowMut<T>(block_, span_);
  }

  /// Whether the device still uses the buffer. Never waits. False for an empty or moved-from one.
  bool busy() const noexcept { return block_ != nullptr && detail::has_open_uses(block_); }
  /// Blocks until the device has finished every use of this buffer. Throws as `borrow()`.
  void wait() const {
    check("PinnedBuffer::wait");
    if (block_ != nullptr) detail::unwrap(detail::wait_for_uses(block_, {}, "PinnedBuffer::wait"));
  }
  /// As `wait()`, at most so long: `Errc::timed_out`. Returns the error instead of throwing it.
  [[nodiscard]] Result<void> wait_for(std::chrono::nanoseconds timeout) const noexcept {
    if (!valid_) return tl::unexpected(detail::moved_from("PinnedBuffer::wait_for", "the buffer"));
    return block_ != nullptr ? detail::wait_for_uses(block_, timeout, "PinnedBuffer::wait_for") : Result<void>();
  }
  /// The raw elements, without any check: the door for code that has its own ordering. nullptr when empty.
  T* unsynchronized_data() const noexcept { return span_.data(); }

  /// New device memory that the stream fills with a copy of this buffer; returns at once. The memory is freed in stream
  /// order. Throws `Error`: `borrowed`, `out_of_memory`, `wrong_device`, `device_lost`, `moved_from`.
  DeviceBuffer<value_type> async_to_device(const StreamRef& stream) const {
    return detail::unwrap(try_async_to_device(stream));
  }
  /// As `async_to_device`, without throwing.
  [[nodiscard]] Result<DeviceBuffer<value_type>> try_async_to_device(const StreamRef& stream) const noexcept {
    if (!valid_) return tl::unexpected(detail::moved_from("PinnedBuffer::async_to_device", "the buffer"));
    if (block_ == nullptr) return DeviceBuffer<value_type>::try_make(stream, 0);
    auto made = detail::copy_to_new_device_block(block_, size_bytes(), stream);
    if (!made) return tl::unexpected(std::move(made.error()));
    return DeviceBuffer<value_type>(*made, size());
  }
  /// Copies the buffer to the front of `destination`; returns at once. Also throws `too_small`.
  void async_to_device(const StreamRef& stream, DeviceSpan<value_type> destination) const {
    detail::unwrap(try_async_to_device(stream, destination));
  }
  /// As that, without throwing.
  [[nodiscard]] Result<void> try_async_to_device(const StreamRef& stream,
                                                 DeviceSpan<value_type> destination) const noexcept {
    return try_async_to_device(stream, destination, 0, size());
  }
  /// Copies `count` elements from `offset` on to the front of `destination`. Also throws `invalid_argument` when the
  /// buffer ends before them. The whole buffer counts as in use.
  void async_to_device(const StreamRef& stream, DeviceSpan<value_type> destination, std::size_t offset,
                       std::size_t count) const {
    detail::unwrap(try_async_to_device(stream, destination, offset, count));
  }
  /// As that, without throwing.
  [[nodiscard]] Result<void> try_async_to_device(const StreamRef& stream, DeviceSpan<value_type> destination,
                                                 std::size_t offset, std::size_t count) const noexcept {
    constexpr const char* call = "PinnedBuffer::async_to_device";
    if (!valid_) return tl::unexpected(detail::moved_from(call, "the buffer"));
    if (offset > size() || count > size() - offset)
      return tl::unexpected(detail::outside_error(call, offset, count, size()));
    if (destination.size() < count) return tl::unexpected(detail::too_small_error(call, count, destination.size()));
    if (count == 0) return {};
    return detail::copy_to_device(block_, offset * sizeof(T), count * sizeof(T), stream, destination.side());
  }
  /// Fills this buffer from `offset` on with `source` (all of it); returns at once. Throws `Error`: `too_small` when
  /// the buffer ends before the source does, `borrowed`, `wrong_device`, `device_lost`, `moved_from`.
  void async_from_device(const StreamRef& stream, DeviceSpan<const T> source,
                         std::size_t offset = 0) requires(writable) {
    detail::unwrap(try_async_from_device(stream, source, offset));
  }
  /// As `async_from_device`, without throwing.
  [[nodiscard]] Result<void> try_async_from_device(const StreamRef& stream, DeviceSpan<const T> source,
                                                   std::size_t offset = 0) noexcept requires(writable) {
    constexpr const char* call = "PinnedBuffer::async_from_device";
    if (!valid_) return tl::unexpected(detail::moved_from(call, "the buffer"));
    if (offset > size() || source.size() > size() - offset)
      return tl::unexpected(detail::too_small_error(call, source.size(), offset > size() ? 0 : size() - offset));
    if (source.size() == 0) return {};
    return detail::copy_from_device(block_, offset * sizeof(T), source.size_bytes(), stream, source.side(), call);
  }

  /// Two buffers of the first `n` elements and of the rest, that share this one's memory; this one is moved from. Each
  /// is a PinnedBuffer as any, with uses and borrows of its own, so that parts may be copied, borrowed and dropped
  /// independently; what still uses this one uses both. The memory comes back when all parts are gone. Does not wait.
  /// Throws `Error`, and nothing has changed then: `invalid_argument` beyond the end, `borrowed` while a borrow, a
  /// graph (after its end until `drain()`, or shortly) or a `UseList` has the buffer, `out_of_memory`, `moved_from`.
  std::pair<PinnedBuffer, PinnedBuffer> split_at(std::size_t n) && {
    return detail::unwrap(std::move(*this).try_split_at(n));
  }
  /// As `split_at`, without throwing.
  [[nodiscard]] Result<std::pair<PinnedBuffer, PinnedBuffer>> try_split_at(std::size_t n) && noexcept {
    return detail::PartAccess::split_at(*this, n, "PinnedBuffer::split_at");
  }
  /// As `split_at`, into as many parts as there are sizes, in elements, which are all of the buffer together.
  std::vector<PinnedBuffer> split(gsl::span<const std::size_t> sizes) && {
    return detail::unwrap(std::move(*this).try_split(sizes));
  }
  /// As that: `split({a, b, c})`.
  std::vector<PinnedBuffer> split(std::initializer_list<std::size_t> sizes) && {
    return std::move(*this).split(gsl::span<const std::size_t>(sizes.begin(), sizes.size()));
  }
  /// As that, without throwing.
  [[nodiscard]] Result<std::vector<PinnedBuffer>> try_split(gsl::span<const std::size_t> sizes) && noexcept {
    return detail::PartAccess::split(*this, sizes, "PinnedBuffer::split");
  }

  /// For kernels and library calls: runs `f(pointer, NativeStream)`, which enqueues work that uses the buffer, and
  /// records the use, also when `f` throws. While `f` runs the use is a borrow of its kind. The pointer is a `const T*`
  /// for `Access::device_reads`, a `T*` for `Access::device_writes`, and good on the device: kernels may read and write
  /// there what the CPU has pinned. Returns what `f` returns. `f` neither begins nor
  /// ends a capture. Throws as `async_to_device`, and what `f` throws.
  template <class F>
  std::invoke_result_t<F, const T*, NativeStream> use_on(const StreamRef& stream, Access::Reads, F&& f) const {
    return use<const T>(stream, std::forward<F>(f));
  }
  /// As that, for work that writes.
  template <class F>
  requires(writable) std::invoke_result_t<F, T*, NativeStream> use_on(const StreamRef& stream, Access::Writes, F&& f) {
    return use<T>(stream, std::forward<F>(f));
  }
  /// As `use_on`, but returns thole's own error instead of throwing it; `f` returns no reference.
  template <class F>
  [[nodiscard]] Result<std::invoke_result_t<F, const T*, NativeStream>> try_use_on(const StreamRef& stream,
                                                                                   Access::Reads, F&& f) const {
    return try_use<const T>(stream, std::forward<F>(f));
  }
  /// As that, for work that writes.
  template <class F>
  requires(writable) [[nodiscard]] Result<std::invoke_result_t<F, T*, NativeStream>> try_use_on(const StreamRef& stream,
                                                                                                Access::Writes, F&& f) {
    return try_use<T>(stream, std::forward<F>(f));
  }

 private:
  friend class PinnedArena;
  friend class PinnedHeap;
  friend struct detail::ListAccess;
  friend struct detail::PartAccess;
  template <class U>
  friend class DeviceBuffer;
  PinnedBuffer(detail::BlockHead* block, T* data, std::size_t size) noexcept
      : block_(block), span_(data, size), valid_(true) {}

  /// Runs `call(native)` as a use of the buffer.
  template <bool Writes, class Call>
  Result<void> run_use(const StreamRef& stream, Call& call, const void** place) const {
    if (!valid_) return tl::unexpected(detail::moved_from("PinnedBuffer::use_on", "the buffer"));
    return detail::use_on(
        block_, stream, Writes, [](void* context, NativeStream native) { (*static_cast<Call*>(context))(native); },
        &call, place);
  }
  template <class Element>
  static Element* at(const void* place) noexcept {
    return static_cast<Element*>(const_cast<void*>(place));
  }
  template <class Element, class F>
  std::invoke_result_t<F, Element*, NativeStream> use(const StreamRef& stream, F&& f) const {
    using R = std::invoke_result_t<F, Element*, NativeStream>;
    const void* place = span_.data();
    const auto run = [&](auto& call) { return run_use<!std::is_const_v<Element>>(stream, call, &place); };
    return detail::returning_or_throw<R>(
        run, [&](NativeStream native) -> R { return std::invoke(std::forward<F>(f), at<Element>(place), native); });
  }
  template <class Element, class F, class R = std::invoke_result_t<F, Element*, NativeStream>>
  [[nodiscard]] Result<R> try_use(const StreamRef& stream, F&& f) const {
    const void* place = span_.data();
    const auto run = [&](auto& call) { return run_use<!std::is_const_v<Element>>(stream, call, &place); };
    return detail::returning<R>(
        run, [&](NativeStream native) -> R { return std::invoke(std::forward<F>(f), at<Element>(place), native); });
  }

  // ---- For detail::PartAccess
  using PartBlock = detail::BlockHead;
  static constexpr std::size_t element_bytes = sizeof(T);
  static PinnedBuffer of_part(detail::BlockHead* block, std::size_t size) noexcept {
    return PinnedBuffer(block, static_cast<T*>(detail::block_data(block)), size);
  }
  void be_moved_from() noexcept {
    block_ = nullptr;
    span_ = {};
    valid_ = false;
  }

  void check(const char* call) const {
    if (!valid_) detail::throw_error(detail::moved_from(call, "the buffer"));
  }

  detail::BlockHead* block_;  // nullptr: empty or moved from
  gsl::span<T> span_;
  bool valid_;
};

}  // namespace thole::inline v0_1
