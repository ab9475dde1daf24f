#pragma once

// What the seam's calls on the simulated device have in common: the lock, the count, the refusals that any call may
// meet.
// Defined in: backend.cpp

#include <new>
#include <utility>

#include "backend/simulated/capture.hpp"
#include "backend/simulated/host_thread.hpp"
#include "backend/simulated/machine.hpp"
#include "backend/simulated/run.hpp"
#include "backend/simulated/waits.hpp"
#include "base/fork.hpp"
#include "base/host_function.hpp"

namespace thole::inline v0_1::detail::simulated {

/// CUDA's two special stream handles beside nullptr.
inline void* const legacy_handle = reinterpret_cast<void*>(1);
inline void* const per_thread_handle = reinterpret_cast<void*>(2);

/// The stream that the handle means to this device and thread, or nullptr.
StreamPtr find_stream(SimulatedDevice& device, StreamHandle handle);
StreamPtr make_stream(SimulatedDevice& device);
/// The event of the handle, or nullptr.
SimulatedEvent* find_event(EventHandle handle);

/// Whether a lost device still does what it is asked for, though it may then report the loss.
enum class Lost { refused, taken, unnoticed };

/// The refusal that a test asked for, or ok. Counts the call.
inline Status requested(SimulatedDevice& device, SimulatedCall kind) {
  auto& asked = device.calls[kind];
  ++asked.calls;
  if (asked.fail_in == 0 || --asked.fail_in != 0) return {};
  const bool memory = kind == SimulatedCall::register_host || kind == SimulatedCall::allocate_host ||
                      kind == SimulatedCall::allocate_device;
  return refuse(memory ? Refusal::out_of_memory : Refusal::requested);
}

/// Whether the call takes the lock that unpinning holds while it waits for running work.
constexpr bool waits_for_unpinning(SimulatedCall kind) noexcept {
  switch (kind) {
    case SimulatedCall::query_event:
    case SimulatedCall::synchronize_event:
    case SimulatedCall::synchronize_stream:
    case SimulatedCall::wait_event:
    case SimulatedCall::allocate_device:
    case SimulatedCall::capture_info:
    case SimulatedCall::stream_id:
    case SimulatedCall::check_stream:
      return false;
    default:
      return true;
  }
}

/// Whether the call takes the lock that a caller holds who waits for room in a full queue. What CUDA is known to hold
/// up, and what pins or unpins as those do; what gives other work to other streams goes on.
constexpr bool waits_for_full_queues(SimulatedCall kind) noexcept {
  switch (kind) {
    case SimulatedCall::create_stream:
    case SimulatedCall::destroy_stream:
    case SimulatedCall::create_event:
    case SimulatedCall::destroy_event:
    case SimulatedCall::register_host:
    case SimulatedCall::unregister_host:
    case SimulatedCall::allocate_host:
    case SimulatedCall::free_host:
    case SimulatedCall::host_function:
    case SimulatedCall::begin_capture:
      return true;
    default:
      return false;
  }
}

/// One call of the seam: runs `f(lock)` with the machine locked, and around it what a test asked for. The machine's own
/// lack of memory becomes a Status.
template <class F>
Status call(SimulatedDevice& device, SimulatedCall kind, F f, Lost on_lost = Lost::refused) noexcept {
  if (device.process != this_process()) return refuse(Refusal::another_process);
  if (in_host_function()) {
    machine().calls_in_host_functions.fetch_add(1, std::memory_order_relaxed);
    if (kind != SimulatedCall::query_event && kind != SimulatedCall::synchronize_event)
      return refuse(Refusal::not_permitted);
  }
  try {
    Lock lock(machine().mutex);
    if (const auto before = std::exchange(device.calls[kind].before, nullptr)) {
      lock.unlock();
      before();
      lock.lock();
    }
    wait_for_driver_locks(lock, device, waits_for_unpinning(kind), waits_for_full_queues(kind));
    Status status = requested(device, kind);
    if (device.lost && on_lost == Lost::refused) status = refuse(Refusal::lost);
    const bool was_lost = device.lost;
    if (status.ok()) status = f(lock);
    if (status.ok() && was_lost && on_lost != Lost::unnoticed) status = refuse(Refusal::lost);
    run_inline(lock);
    const auto after = std::exchange(device.calls[kind].after, nullptr);
    lock.unlock();
    if (after) after();
    return status;
  } catch (const std::bad_alloc&) {
    return refuse(Refusal::out_of_memory);
  }
}

/// What comes before any call on the stream: room in its queue, and the order of the default streams.
inline Status prepare(Lock& lock, const StreamPtr& stream, SimulatedCall kind) {
  const SimulatedDevice& device = *stream->device;
  if (kind == SimulatedCall::check_stream) return {};
  if (stream == device.legacy_stream) {
    for (const auto& [thread, other] : device.thread_streams) {
      if (!other->capture) continue;
      if (kind != SimulatedCall::capture_info) invalidate(*other->capture);
      return refuse(Refusal::capture_implicit);
    }
  }
  if (kind == SimulatedCall::stream_id) return {};
  const bool enqueues = kind == SimulatedCall::copy || kind == SimulatedCall::record_event ||
                        kind == SimulatedCall::wait_event || kind == SimulatedCall::host_function ||
                        kind == SimulatedCall::kernel || kind == SimulatedCall::launch_graph ||
                        kind == SimulatedCall::allocate_device || kind == SimulatedCall::free_device;
  if (stream->capture || (!enqueues && kind != SimulatedCall::synchronize_stream)) return {};
  if (enqueues && !wait_for_room(lock, stream)) return refuse(Refusal::lost);
  order_default_streams(stream);
  return {};
}

/// As `call`, for one that works on a stream: `f(lock, stream)`.
template <class F>
Status stream_call(SimulatedDevice& device, SimulatedCall kind, StreamHandle handle, F f) noexcept {
  return call(device, kind, [&](Lock& lock) {
    const auto stream = find_stream(device, handle);
    if (stream == nullptr) return refuse(Refusal::invalid_handle);
    if (stream->device->lost) return refuse(Refusal::lost);
    if (const Status status = prepare(lock, stream, kind); !status.ok()) return status;
    return f(lock, stream);
  });
}

}  // namespace thole::inline v0_1::detail::simulated
