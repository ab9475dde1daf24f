#pragma once

#include <cstdint>
#include <functional>
#include <type_traits>
#include <utility>

#include <thole/detail/kept.hpp>
#include <thole/detail/std_parts.hpp>
#include <thole/device.hpp>
#include <thole/error.hpp>
#include <thole/export.hpp>

struct CUstream_st;  // what cudaStream_t points to, so that no CUDA header is needed here

namespace thole::inline v0_1 {

class Event;
class StreamRef;

namespace detail {
class Timeline;
struct HandleAccess;
/// The untyped half of `from_native` in `<thole/cuda.hpp>`.
THOLE_EXPORT Result<StreamRef> stream_from_native(const Device& device, void* native) noexcept;
}  // namespace detail

/// What an event is recorded with.
/// Thread safety: plain data.
struct EventOptions {
  /// `Event::elapsed_since` may be asked. Such events are kept apart and used again: the first ones of a device are
  /// made for the call, which costs 0.5 us more, and may wait beside a full queue.
  bool timing = false;
};

/// A stream's raw handle: a `cudaStream_t` on a GPU; no address at all on a simulated device.
using NativeStream = ::CUstream_st*;

/// A view of a stream: a queue of work that a device runs in order. Copyable; does not own the stream. Views of one
/// native stream share one timeline, so uses through any of them are seen by all. Using a view of a thole `Stream` that
/// is gone throws `Errc::invalid_argument`; a native stream must live while it is used through a view (as in CUDA).
/// `<thole/cuda.hpp>` makes views of a `cudaStream_t`.
///
/// Thread safety: const members of one object may be called by many threads at once; others need exclusive access. A
/// view of `cudaStreamPerThread` belongs to the thread that made it, and says `invalid_argument` to others.
class [[nodiscard]] THOLE_EXPORT StreamRef {
 public:
  StreamRef(const StreamRef&) = default;
  StreamRef& operator=(const StreamRef&) = default;
  StreamRef(StreamRef&&) noexcept = default;
  StreamRef& operator=(StreamRef&&) noexcept = default;

  /// The device that it is a stream of.
  Device device() const;
  /// Blocks until everything enqueued so far is done, then recycles what that frees. Throws `Error`: `device_lost`,
  /// `capturing` while the stream captures. CUDA: "Stream Management", cudaStreamSynchronize.
  void synchronize() const;
  /// As `synchronize()`, at most so long: `Errc::timed_out`. Returns the error instead of throwing it. It enqueues an
  /// event: where raw work of the program's alone has filled the stream's queue, that waits as CUDA does.
  [[nodiscard]] Result<void> synchronize_for(std::chrono::nanoseconds timeout) const noexcept;
  /// The point after all work enqueued so far. While the stream is captured the event belongs to the capture: another
  /// stream that waits for it takes part in the capture from then on, and nothing else can be asked of it. Throws
  /// `Error`.
  [[nodiscard]] Event record(const EventOptions& options = {}) const;
  /// As `record`, without throwing.
  [[nodiscard]] Result<Event> try_record(const EventOptions& options = {}) const noexcept;
  /// Work enqueued from now on starts after the event's point; does not block. In a capture this forks and joins
  /// streams. Throws `Error`: `wrong_device` (never for two GPUs: CUDA allows that), `device_lost`, `capturing` where a
  /// captured stream would wait for what is outside of its capture, or the event's capture has ended.
  void wait(const Event& event) const;
  /// As `wait`, without throwing.
  [[nodiscard]] Result<void> try_wait(const Event& event) const noexcept;
  /// Runs the function on a thread of the device's when the stream gets there; it must not throw. It may drop handles,
  /// which thole ends later; other calls of thole in it that need the device are errors. The stream keeps it until it
  /// has run; in a capture the graph keeps it, and each launch runs it. Does not block, but where the stream's queue is
  /// full. Throws `Error`, and the function is dropped then: `invalid_argument` for an empty one, `capturing` where the
  /// stream's capture is invalidated, `device_lost`, `moved_from`, `out_of_memory`. CUDA: "Execution Control",
  /// cudaLaunchHostFunc.
  void launch_host_function(std::function<void()> function) const;
  /// As `launch_host_function`, without throwing.
  [[nodiscard]] Result<void> try_launch_host_function(std::function<void()> function) const noexcept;
  /// As `launch_host_function`, for one that can only be moved: it may own buffers. Throws what moving it throws, too.
  template <class F>
  requires(!std::is_copy_constructible_v<F>) void launch_host_function(F function) const {
    detail::unwrap(try_launch_host_function(std::move(function)));
  }
  /// As that, but the errors of the call are returned.
  template <class F>
  requires(!std::is_copy_constructible_v<F>) [[nodiscard]] Result<void> try_launch_host_function(F function) const {
    if constexpr (std::is_constructible_v<bool, const F&>)
      if (!static_cast<bool>(function)) return launch_kept(nullptr, nullptr);
    if constexpr (requires { function.valid(); })  // a std::packaged_task
      if (!function.valid()) return launch_kept(nullptr, nullptr);
    auto shared = detail::try_make_shared<F>(std::move(function));
    if (shared == nullptr) return tl::unexpected(detail::no_system_memory("Stream::launch_host_function"));
    return launch_kept(std::move(shared), [](void* kept) { (*static_cast<F*>(kept))(); });
  }
  /// The stream's number, as cudaStreamGetId says: no other stream of the process has it, ever. Reports name streams by
  /// it. 0 for a view that was made while its stream captured.
  std::uint64_t id() const;
  /// The stream's priority: lower ones come first. Throws `Error`.
  int priority() const;
  /// Whether a graph capture is going on in this stream. Never disturbs it.
  [[nodiscard]] bool capturing() const;
  /// The raw handle, for code that knows the backend; `thole::native` in `<thole/cuda.hpp>` is the same.
  NativeStream native() const;

  friend bool operator==(const StreamRef& a, const StreamRef& b) noexcept { return a.timeline_ == b.timeline_; }

 private:
  Result<void> launch_kept(std::shared_ptr<void> function, void (*run)(void*)) const noexcept;

 protected:
  friend struct detail::HandleAccess;
  StreamRef() = default;
  /// Shared by all views of the stream.
  std::shared_ptr<detail::Timeline> timeline_;  // nullptr: moved from
};

/// How a stream is made.
/// Thread safety: plain data.
struct StreamOptions {
  /// Work in streams with a lower number comes first where the device has to choose, as cudaStreamCreateWithPriority
  /// says: 0 is the last, and on most GPUs -5 the first; what is beyond the range is at its end. A hint for kernels: it
  /// orders nothing, and copies do not look at it. Costs nothing.
  int priority = 0;
};

/// Owns a stream that runs independently of the legacy default stream; move-only, and a `StreamRef` wherever one is
/// wanted. Destroying it returns at once: work in it still completes and frees what waits for it.
///
/// Thread safety: const members of one object may be called by many threads at once; others need exclusive access. If
/// one thread destroys the stream while another is inside a call through a view, that call still finishes correctly.
class [[nodiscard]] THOLE_EXPORT Stream : public StreamRef {
 public:
  /// Throws `Error`: `device_lost`, `device_error`.
  explicit Stream(const Device& device, const StreamOptions& options = {});
  /// As the constructor, without throwing.
  [[nodiscard]] static Result<Stream> try_make(const Device& device, const StreamOptions& options = {}) noexcept;
  Stream(Stream&& other) noexcept = default;
  Stream& operator=(Stream&& other) noexcept;
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream();

 private:
  Stream() = default;
};

}  // namespace thole::inline v0_1
