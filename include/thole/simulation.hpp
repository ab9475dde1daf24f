#pragma once

#include <cstddef>
#include <functional>

#include <thole/detail/std_parts.hpp>
#include <thole/export.hpp>
#include <thole/graph.hpp>
#include <thole/simulation_options.hpp>

namespace thole::inline v0_1 {

namespace detail {
class SimulatedBackend;
}

/// The capture modes of `Simulation::begin_capture`, as CUDA's.
enum class SimulatedCaptureMode { global, thread_local_, relaxed };

/// What `Simulation::end_capture` returns: a graph as any.
using SimulatedGraph = Graph;

/// The controls of a simulated device, from `Device::simulation()`. A cheap view that keeps the device alive; it is
/// copied where it would be moved, so that none is ever empty.
/// An "operation" is one copy, event record, event wait, host function, kernel (`launch`), allocation or free in a
/// stream; a copy moves its bytes in the moment at which it completes, never earlier. A stream of another device is
/// `Errc::wrong_device`, which these calls throw as `Error`.
///
/// Thread safety: all members of one object may be called by many threads at once; assigning it needs exclusive access.
class [[nodiscard]] THOLE_EXPORT Simulation {
 public:
  /// For `Device::simulation()`.
  explicit Simulation(std::shared_ptr<detail::SimulatedBackend> backend) noexcept;
  Simulation(const Simulation&) noexcept = default;
  Simulation& operator=(const Simulation&) noexcept = default;
  ~Simulation() = default;

  /// As cudaSetDevice, for the calling thread and as long as the device lives: where other code names a default stream
  /// and no device (a `cuda::stream_ref`), it is this device's.
  void make_current();

  /// Stops the stream before its next operation, also on a device that runs by itself.
  void hold(const StreamRef& stream);
  /// Lets a held stream run by itself again; on a stepped device it then runs all that is enqueued, at once, on
  /// the calling thread, and from then on whatever is enqueued as soon as it can run.
  void release(const StreamRef& stream);
  /// Completes up to `operations` operations of the stream on the calling thread; those that wait for an event which
  /// is not complete stop it. Returns how many completed.
  std::size_t step(const StreamRef& stream, std::size_t operations = 1);
  /// Completes one operation of a stream that can go on, chosen by the seed. False when none can.
  bool step_any();
  /// Steps until no stream that is not held can go on. Returns how many operations completed.
  std::size_t run_all();
  /// Operations enqueued in the stream and not complete.
  std::size_t pending(const StreamRef& stream) const;
  /// Operations enqueued on the device and not complete.
  std::size_t pending() const;
  /// Threads that wait in the device at this moment (`Stream::synchronize`, `borrow()`): a test that lets another
  /// thread wait can spin until this says 1 and then step.
  std::size_t blocked_callers() const;
  /// The device's clock: the sum, on the busiest stream, of what its operations took.
  std::chrono::nanoseconds now() const;

  /// Makes the `nth` call of this kind from now on (1: the next) fail with `out_of_memory` where the call allocates or
  /// registers, else as a driver's refusal. One at a time per kind; 0 takes it back.
  void fail_call(SimulatedCall call, std::size_t nth);
  /// Runs `run` once, in the middle of the next call of this kind that any thread makes: on that thread, before the
  /// device looks at anything, or after it has done its part. It may use thole and the device, but for what
  /// waits for the very call that it stands in (it drains, say, while that call records an event), and must not throw.
  /// So a test decides what happens between two steps of thole's, without luck. nullptr takes it back.
  void before_call(SimulatedCall call, std::function<void()> run);
  /// As that, when the device has done its part.
  void after_call(SimulatedCall call, std::function<void()> run);
  /// A sticky error: nothing enqueued completes any more, blocked callers return, each call says device_lost.
  void lose_device();

  /// Where the CPU may look at device memory: at the address that programs see (`DeviceSpan::native`) it can neither
  /// read nor write, as on a GPU. A door for tests, valid until the memory is freed; work that is going on may change
  /// what is there at any moment. nullptr: no simulated device has memory at this address.
  template <class T>
  T* view_of(T* device_memory) const {
    return static_cast<T*>(view_of_memory(device_memory));
  }

  /// Bytes of host memory registered or allocated through the device.
  std::size_t pinned_bytes() const;
  /// Of them, those that arenas have: the rest stays pinned for later ones (`Device::trim_pinned`). 0 says that nothing
  /// of any arena's is left.
  std::size_t arena_bytes() const;
  /// Bytes of device memory allocated.
  std::size_t device_bytes() const;
  /// Events that exist, for tests that count.
  std::size_t live_events() const;
  /// Calls of that kind so far.
  std::size_t calls(SimulatedCall call) const;

  /// Begins to capture what is enqueued on the stream. Throws `Error`.
  void begin_capture(const StreamRef& stream, SimulatedCaptureMode mode = SimulatedCaptureMode::global);
  /// Ends the capture; throws `Error` with `Errc::capturing` when something has invalidated it.
  SimulatedGraph end_capture(const StreamRef& stream);

 private:
  void* view_of_memory(const void* device_memory) const;
  std::shared_ptr<detail::SimulatedBackend> backend_;
};

}  // namespace thole::inline v0_1
