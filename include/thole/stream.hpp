#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <type_traits>
#include <utility>

#include <thole/device.hpp>
#include <thole/error.hpp>
#include <thole/export.hpp>

struct CUstream_st;  // what cudaStream_t points to, so that no CUDA header is needed here

namespace thole {

class Event;
class StreamRef;

namespace detail {
class Timeline;
/// The untyped half of `from_native` in `<thole/cuda.hpp>`.
THOLE_EXPORT Result<StreamRef> stream_from_native(const Device& device, void* native) noexcept;
/// Returns the value or throws the error.
template <class T>
T unwrap(Result<T>&& result) {
  if (!result) throw result.error();
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}
}  // namespace detail

/// A stream's raw handle: a `cudaStream_t` on a GPU; opaque on a simulated device.
using NativeStream = ::CUstream_st*;

/// A view of a stream: a queue of work that a device runs in order. Copyable; does not own the stream. Views of one
/// native stream share one timeline, so uses through any of them are seen by all. Using a view of a thole `Stream` that
/// is gone throws `Errc::invalid_argument`; a native stream must live while it is used through a view (as in CUDA).
/// Safe from any thread; `<thole/cuda.hpp>` makes views of a `cudaStream_t`.
class THOLE_EXPORT StreamRef {
 public:
  StreamRef(const StreamRef&) = default;
  StreamRef& operator=(const StreamRef&) = default;
  StreamRef(StreamRef&&) noexcept = default;
  StreamRef& operator=(StreamRef&&) noexcept = default;
  /// Never blocks; what is in flight goes on.
  ~StreamRef();

  Device device() const;
  /// Blocks until everything enqueued so far is done, then recycles what that frees. Throws `Error`: `device_lost`,
  /// `capturing` while the stream captures. CUDA: "Stream Management", cudaStreamSynchronize.
  void synchronize() const;
  Result<void> try_synchronize() const noexcept;
  /// The point after all work enqueued so far. Throws `Error`.
  Event record() const;
  /// Work enqueued from now on starts after the event's point; does not block. Throws `Error`: `wrong_device` (never
  /// for two GPUs: CUDA allows that), `device_lost`.
  void wait(const Event& event) const;
  /// Runs the function on a thread of the device's when the stream gets there; it must not call thole or CUDA, nor
  /// throw. CUDA: "Execution Control", cudaLaunchHostFunc.
  void launch_host_function(std::function<void()> function) const;
  /// Whether a graph capture is going on in this stream. Never disturbs it.
  bool capturing() const;
  /// The raw handle, for code that knows the backend; `thole::native` in `<thole/cuda.hpp>` is the same.
  NativeStream native() const;

  friend bool operator==(const StreamRef& a, const StreamRef& b) noexcept { return a.id_ == b.id_; }

 protected:
  friend struct detail::HandleAccess;
  StreamRef() = default;
  std::shared_ptr<detail::DeviceCore> device_;
  detail::Timeline* timeline_ = nullptr;
  void* native_ = nullptr;
  std::uint64_t id_ = 0;  // unique in the process and over time (cudaStreamGetId); 0: moved from
  bool foreign_ = false;
};

/// Owns a stream that runs independently of the legacy default stream; move-only, and a `StreamRef` wherever one is
/// wanted. Destroying it returns at once: work in it still completes and frees what waits for it.
class THOLE_EXPORT Stream : public StreamRef {
 public:
  /// Throws `Error`: `device_lost`, `device_error`.
  explicit Stream(const Device& device);
  static Result<Stream> try_make(const Device& device) noexcept;
  Stream(Stream&& other) noexcept;
  Stream& operator=(Stream&& other) noexcept;
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream();

 private:
  Stream() = default;
};

}  // namespace thole
