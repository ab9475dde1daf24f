#pragma once

#include <cstddef>
#include <type_traits>
#include <utility>

#include <gsl/span>

#include <thole/detail/block_head.hpp>
#include <thole/error.hpp>
#include <thole/export.hpp>

namespace thole::inline v0_1 {

template <class T>
class PinnedBuffer;

namespace detail {

/// Nobody holds the block any more: its memory may be used again, or is retired until the device is done with it.
/// Never throws or blocks.
THOLE_EXPORT void release(BlockHead* block) noexcept;

/// Ends a borrow. Never throws or blocks; releases the memory if the borrow was the last to hold it.
template <bool Exclusive>
void end_borrow(BlockHead* block) noexcept {
  if (Exclusive ? block->holders.end_write() : block->holders.end_read()) [[unlikely]]
    release(block);
}

/// Begins a borrow of a block that no stream has used since its uses were last forgotten. False: it must be looked at.
template <bool Exclusive>
bool begin_untouched(BlockHead* block) noexcept {
  if (!block->untouched() || !(Exclusive ? block->holders.begin_write() : block->holders.begin_read())) return false;
  // Between the two another thread may have launched a graph that uses it, or run a list: from now on none can. Those
  // hold a borrow of their own until they have set `used`, so that either it is seen here, or they were refused.
  if (block->untouched()) [[likely]]
    return true;
  end_borrow<Exclusive>(block);
  return false;
}

/// What `Borrow` (of a const T) and `BorrowMut` share: a contiguous range over memory that it keeps alive.
template <class T>
class [[nodiscard]] BasicBorrow {
 public:
  using element_type = T;
  using value_type = std::remove_cv_t<T>;
  using size_type = std::size_t;
  using iterator = T*;

  /// A borrow of nothing.
  BasicBorrow() noexcept = default;
  BasicBorrow(BasicBorrow&& other) noexcept
      : block_(std::exchange(other.block_, nullptr)), span_(std::exchange(other.span_, {})) {}
  BasicBorrow& operator=(BasicBorrow&& other) noexcept {
    BasicBorrow(std::move(other)).swap(*this);
    return *this;
  }
  BasicBorrow(const BasicBorrow&) = delete;
  BasicBorrow& operator=(const BasicBorrow&) = delete;
  ~BasicBorrow() {
    if (block_ != nullptr) end_borrow<!std::is_const_v<T>>(block_);
  }

  /// Ends the borrow now; it is empty from then on. (`end()` is the iterator's.)
  void drop() noexcept { *this = BasicBorrow(); }

  /// The elements; the span is valid while this borrow lives, so that there is none of a temporary borrow.
  gsl::span<T> span() const& noexcept THOLE_LIFETIMEBOUND { return span_; }
  gsl::span<T> span() const&& = delete;
  /// Valid while this borrow lives, as are the iterators.
  T* data() const noexcept THOLE_LIFETIMEBOUND { return span_.data(); }
  std::size_t size() const noexcept { return span_.size(); }
  bool empty() const noexcept { return span_.empty(); }
  [[nodiscard]] T* begin() const noexcept THOLE_LIFETIMEBOUND { return span_.data(); }
  [[nodiscard]] T* end() const noexcept THOLE_LIFETIMEBOUND { return span_.data() + span_.size(); }
  /// Bounds are checked in every build: throws `Error` with `Errc::invalid_argument`, as `at()` does.
  T& operator[](std::size_t index) const THOLE_LIFETIMEBOUND {
    if (index >= span_.size()) [[unlikely]]
      throw_outside(std::is_const_v<T> ? "Borrow::operator[]" : "BorrowMut::operator[]", index, 1, span_.size());
    return span_.data()[index];
  }
  T& at(std::size_t index) const THOLE_LIFETIMEBOUND { return (*this)[index]; }
  /// The same memory as bytes; valid while this borrow lives, as `span()`.
  gsl::span<const std::byte> as_bytes() const& noexcept THOLE_LIFETIMEBOUND { return gsl::as_bytes(span_); }
  gsl::span<const std::byte> as_bytes() const&& = delete;
  /// Of a `BorrowMut`.
  gsl::span<std::byte> as_writable_bytes() const& noexcept THOLE_LIFETIMEBOUND requires(!std::is_const_v<T>) {
    return gsl::as_writable_bytes(span_);
  }
  gsl::span<std::byte> as_writable_bytes() const&& = delete;

  /// Of a `BorrowMut`, `std::move(borrow).share()`: the same as a `Borrow`, beside which others may read and the device
  /// may, too. Nobody can borrow to write in between. Never waits. This one is empty from then on.
  BasicBorrow<const T> share() && noexcept requires(!std::is_const_v<T>) {
    if (block_ != nullptr) block_->holders.write_to_read();
    return BasicBorrow<const T>(std::exchange(block_, nullptr), std::exchange(span_, {}));
  }

  void swap(BasicBorrow& other) noexcept {
    std::swap(block_, other.block_);
    std::swap(span_, other.span_);
  }

 private:
  template <class U>
  friend class thole::PinnedBuffer;
  template <class U>
  friend class BasicBorrow;
  BasicBorrow(BlockHead* block, gsl::span<T> span) noexcept : block_(block), span_(span) {}

  BlockHead* block_ = nullptr;  // nullptr: moved from, or a borrow of nothing
  gsl::span<T> span_;
};

}  // namespace detail

/// Read access to a `PinnedBuffer` from the CPU: a contiguous range and a `gsl::span<const T>` while it lives;
/// move-only. Keeps the memory alive, even when the buffer is moved or dropped. One that was moved from is empty.
///
/// Thread safety: const members of one object may be called by many threads at once; others need exclusive access. A
/// borrow may end on any thread.
template <class T>
using Borrow = detail::BasicBorrow<const T>;

/// Exclusive access from the CPU, as `Borrow`, to a `gsl::span<T>`.
///
/// Thread safety: as `Borrow`; who writes the elements from several threads orders that as with any memory.
template <class T>
using BorrowMut = detail::BasicBorrow<T>;

}  // namespace thole::inline v0_1
