#pragma once

// Work that uses several buffers: kernels and library calls, whatever the program enqueues in a stream by itself.
//
//     thole::use_on(stream, thole::reads(a), thole::reads(b), thole::writes(c),
//                   [&](const float* x, const float* y, float* z, cudaStream_t native) {
//                     add<<<blocks, threads, 0, native>>>(x, y, z, n);
//                   });

#include <cstddef>
#include <functional>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <thole/buffer.hpp>
#include <thole/detail/listed_use.hpp>
#include <thole/detail/returning.hpp>
#include <thole/device_buffer.hpp>
#include <thole/error.hpp>
#include <thole/export.hpp>
#include <thole/stream.hpp>

namespace thole::inline v0_1 {

// ---- What the work uses. Each names a buffer, or a span of a DeviceBuffer, for one call of use_on(), and lives no
// longer than what it names.

/// The work reads the buffer; its function gets a `const T*`.
template <class T>
detail::Listed<const T*> reads(const PinnedBuffer<T>& buffer THOLE_LIFETIMEBOUND) noexcept {
  return detail::ListAccess::pinned<const T>(buffer);
}
template <class T>
detail::Listed<const T*> reads(const DeviceBuffer<T>& buffer THOLE_LIFETIMEBOUND) noexcept {
  return detail::ListAccess::device<const T>(buffer);
}
template <class T>
detail::Listed<const T*> reads(DeviceSpan<T> span) noexcept {
  return detail::ListAccess::span<const T>(span);
}
/// The work writes the buffer, and may read it, too; its function gets a `T*`.
template <class T>
detail::Listed<T*> writes(PinnedBuffer<T>& buffer THOLE_LIFETIMEBOUND) noexcept {
  static_assert(!std::is_const_v<T>, "a PinnedBuffer of const elements can only be read");
  return detail::ListAccess::pinned<T>(buffer);
}
template <class T>
detail::Listed<T*> writes(PinnedBuffer<T>&& buffer THOLE_LIFETIMEBOUND) noexcept {
  static_assert(!std::is_const_v<T>, "a PinnedBuffer of const elements can only be read");
  return detail::ListAccess::pinned<T>(buffer);
}
template <class T>
detail::Listed<T*> writes(DeviceBuffer<T>& buffer THOLE_LIFETIMEBOUND) noexcept {
  return detail::ListAccess::device<T>(buffer);
}
template <class T>
detail::Listed<T*> writes(DeviceBuffer<T>&& buffer THOLE_LIFETIMEBOUND) noexcept {
  return detail::ListAccess::device<T>(buffer);
}
template <class T>
detail::Listed<T*> writes(DeviceSpan<T> span) noexcept {
  static_assert(!std::is_const_v<T>, "a DeviceSpan of const elements can only be read");
  return detail::ListAccess::span<T>(span);
}

namespace detail {

/// The parts of a call of use_on(stream, uses..., f).
template <class Arguments, class Indices>
struct UseCall;
template <class... Arguments, std::size_t... I>
struct UseCall<std::tuple<Arguments...>, std::index_sequence<I...>> {
  template <std::size_t J>
  using Argument = std::remove_cvref_t<std::tuple_element_t<J, std::tuple<Arguments...>>>;
  using F = std::tuple_element_t<sizeof...(I), std::tuple<Arguments...>>;
  using R = std::invoke_result_t<F, decltype(Argument<I>::pointer)..., NativeStream>;

  const StreamRef& stream;
  std::tuple<Arguments...> arguments;
  const char* name;
  const void* places[sizeof...(I)] = {};

  template <class Call>
  Result<void> operator()(Call& call) {
    const ListedUse uses[] = {std::get<I>(arguments).use...};
    return run_uses(
        stream, uses, sizeof...(I), name,
        [](void* context, NativeStream native) { (*static_cast<Call*>(context))(native); }, &call, places);
  }
  R invoke(NativeStream native) {
    return std::invoke(std::forward<F>(std::get<sizeof...(I)>(arguments)),
                       static_cast<decltype(Argument<I>::pointer)>(const_cast<void*>(places[I]))..., native);
  }
};
template <class... Arguments>
using UseCallOf = UseCall<std::tuple<Arguments&&...>, std::make_index_sequence<sizeof...(Arguments) - 1>>;

}  // namespace detail

/// `use_on(stream, reads(a), writes(b), ..., f)` runs `f(const A*, B*, ..., NativeStream)`, which enqueues work in that
/// stream, as one use of all that is named before it: PinnedBuffers, DeviceBuffers, and spans of DeviceBuffers. A span
/// of other device memory is passed on, and is the program's to order. Returns what `f` returns.
///
/// All or nothing: the rules of `PinnedBuffer` are checked for each before anything happens, and where one forbids the
/// work `f` does not run. The device then runs the work after all earlier uses that it must come after, on whatever
/// streams. Each buffer may be dropped at any time afterwards, a DeviceBuffer on whatever stream it was made. The use
/// is recorded, with one event for all, also where `f` throws. While `f` runs, each use is a borrow of its kind; `f`
/// neither begins nor ends a capture. In a capture the graph keeps the memory.
///
/// A buffer that is named twice may be read twice; one that is written may be named only once, and of device memory
/// the written part: else it is `invalid_argument`. (A write may read: name what is changed in place once.)
///
/// Throws `Error`: `borrowed`, `invalid_argument`, `moved_from`, `wrong_device`, `device_lost`, `out_of_memory`,
/// `in_flight` in a capture; and what `f` throws. Does not block, but where the stream's queue is full.
///
/// Thread safety: as that of const members of what is read, and of other members of what is written.
template <class... Arguments>
decltype(auto) use_on(const StreamRef& stream, Arguments&&... arguments) {
  static_assert(sizeof...(Arguments) > 1, "use_on(stream, reads(a), writes(b), ..., f)");
  using Call = detail::UseCallOf<Arguments...>;
  Call call{stream, {std::forward<Arguments>(arguments)...}, "use_on"};
  return detail::returning_or_throw<typename Call::R>(
      call, [&](NativeStream native) -> typename Call::R { return call.invoke(native); });
}

/// As `use_on`, but returns thole's own error instead of throwing it; `f` returns no reference.
template <class... Arguments>
[[nodiscard]] auto try_use_on(const StreamRef& stream, Arguments&&... arguments) {
  static_assert(sizeof...(Arguments) > 1, "try_use_on(stream, reads(a), writes(b), ..., f)");
  using Call = detail::UseCallOf<Arguments...>;
  Call call{stream, {std::forward<Arguments>(arguments)...}, "use_on"};
  return detail::returning<typename Call::R>(
      call, [&](NativeStream native) -> typename Call::R { return call.invoke(native); });
}

/// What a piece of work uses, where that is known only at run time; move-only. The list keeps the memory that it names,
/// as a graph does, so that a buffer may be dropped or moved before the work runs; but it borrows nothing. It may run
/// any number of times, and costs some ten nanoseconds a buffer. One that was moved from is empty.
///
/// Thread safety: const members of one object may be called by many threads at once; others need exclusive access.
class THOLE_EXPORT UseList {
 public:
  UseList() noexcept = default;
  UseList(UseList&& other) noexcept : uses_(std::exchange(other.uses_, {})) {}
  UseList& operator=(UseList&& other) noexcept {
    UseList moved(std::move(other));
    uses_.swap(moved.uses_);
    return *this;
  }
  UseList(const UseList&) = delete;
  UseList& operator=(const UseList&) = delete;
  ~UseList() { clear(); }

  /// The work reads `what`, as `thole::reads(what)` says. Throws `Error`: `moved_from`, `invalid_argument` where the
  /// DeviceBuffer of a span is gone; and std::bad_alloc.
  template <class What>
  void reads(const What& what) {
    add(thole::reads(what).use, "UseList::reads");
  }
  /// The work writes `what`, as `thole::writes(what)` says. Throws as `reads`.
  template <class What>
  void writes(What&& what) {
    add(thole::writes(std::forward<What>(what)).use, "UseList::writes");
  }
  /// Entries.
  std::size_t size() const noexcept { return uses_.size(); }
  /// Whether nothing is listed.
  bool empty() const noexcept { return uses_.empty(); }
  /// Lets go of all.
  void clear() noexcept;

  /// Runs `f(NativeStream)` as one use of all that is listed; else as `thole::use_on`. The pointers are the program's
  /// to know: `DeviceBuffer::span().native()`, or `unsynchronized_data()` where the GPU can use the host's addresses,
  /// as nearly all can; `use_on` hands on the right one anywhere.
  template <class F>
  std::invoke_result_t<F, NativeStream> run_on(const StreamRef& stream, F&& f) const {
    return detail::returning_or_throw<std::invoke_result_t<F, NativeStream>>(Run{stream, uses_}, std::forward<F>(f));
  }
  /// As `run_on`, without throwing.
  template <class F>
  [[nodiscard]] Result<std::invoke_result_t<F, NativeStream>> try_run_on(const StreamRef& stream, F&& f) const {
    return detail::returning<std::invoke_result_t<F, NativeStream>>(Run{stream, uses_}, std::forward<F>(f));
  }

 private:
  struct Run {
    const StreamRef& stream;
    const std::vector<detail::ListedUse>& uses;
    template <class Call>
    Result<void> operator()(Call& call) const {
      return detail::run_uses(
          stream, uses.data(), uses.size(), "UseList::run_on",
          [](void* context, NativeStream native) { (*static_cast<Call*>(context))(native); }, &call);
    }
  };
  void add(const detail::ListedUse& use, const char* call);

  std::vector<detail::ListedUse> uses_;
};

}  // namespace thole::inline v0_1
