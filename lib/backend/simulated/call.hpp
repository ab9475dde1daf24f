#pragma once

// What the seam's calls on the simulated device have in common: the lock, the count, the refusals that any call may
// meet.
// Defined in: backend.cpp

#include <new>
#include <utility>

#include "backend/simulated/machine.hpp"

namespace thole::detail::simulated {

/// CUDA's two special stream handles beside nullptr.
inline void* const legacy_handle = reinterpret_cast<void*>(1);
inline void* const per_thread_handle = reinterpret_cast<void*>(2);

/// The stream that the handle means to this device and thread, or nullptr.
std::shared_ptr<Stream> find_stream(Device& device, StreamHandle handle);
std::shared_ptr<Stream> make_stream(Device& device);
/// The event of the handle, or nullptr.
Event* find_event(EventHandle handle);

/// Runs `f(lock)` with the machine locked and the machine's memory errors turned into a Status.
template <class F>
Status locked(F f) noexcept {
  try {
    Lock lock(machine().mutex);
    const Status status = f(lock);
    run_inline(lock);
    return status;
  } catch (const std::bad_alloc&) {
    return refuse(Refusal::out_of_memory);
  }
}

/// As `locked`, for a call that a lost device refuses.
template <class F>
Status call(Device& device, F f) noexcept {
  return locked([&](Lock& lock) { return device.lost ? refuse(Refusal::lost) : f(lock); });
}

/// As `call`, for one that is counted and can be made to fail.
template <class F>
Status call(Device& device, SimulatedCall kind, F f) noexcept {
  return call(device, [&](Lock& lock) {
    auto& counter = device.counters[kind];
    ++counter.calls;
    if (counter.fail_in != 0 && --counter.fail_in == 0) {
      const bool memory = kind == SimulatedCall::register_host || kind == SimulatedCall::allocate_host ||
                          kind == SimulatedCall::allocate_device;
      return refuse(memory ? Refusal::out_of_memory : Refusal::requested);
    }
    return f(lock);
  });
}

/// As `call`, for one that works on a stream: `f(lock, stream)`.
template <class F>
Status stream_call(Device& device, StreamHandle handle, F f) noexcept {
  return call(device, [&](Lock& lock) {
    const auto stream = find_stream(device, handle);
    if (stream == nullptr) return refuse(Refusal::invalid_handle);
    if (stream->device->lost) return refuse(Refusal::lost);
    return f(lock, stream);
  });
}

template <class F>
Status stream_call(Device& device, SimulatedCall kind, StreamHandle handle, F f) noexcept {
  return call(device, kind, [&](Lock& lock) {
    const auto stream = find_stream(device, handle);
    if (stream == nullptr) return refuse(Refusal::invalid_handle);
    if (stream->device->lost) return refuse(Refusal::lost);
    return f(lock, stream);
  });
}

}  // namespace thole::detail::simulated
