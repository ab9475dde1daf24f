// The controls of the simulated device: what class Simulation offers to tests.

#include <type_traits>
#include <utility>
#include <vector>

#include "backend/simulated/backend.hpp"
#include "backend/simulated/call.hpp"
#include "backend/simulated/run.hpp"

namespace thole::inline v0_1::detail {

using namespace simulated;

namespace {

/// One operation of one of the device's streams that can go on, picked by the seed. False when none can.
bool step_picked(Lock& lock, SimulatedDevice& device) {
  std::vector<StreamPtr> able;
  for (const auto& [id, stream] : device.streams) {
    if (stream->mode != SimulatedStream::Mode::held && stream->can_go_on()) able.push_back(stream);
  }
  if (able.empty()) return false;
  const auto stream = able[device.random() % able.size()];
  const bool done = run_one(lock, stream);
  schedule(stream);
  run_inline(lock);
  return done;
}

/// Runs `f(lock)` with the machine locked. Another process's device has nothing to control: its answer is nothing.
template <class F>
auto control(const SimulatedDevice& device, F f) {
  using Answer = std::invoke_result_t<F, Lock&>;
  if (device.process != this_process()) return Answer();
  Lock lock(machine().mutex);
  return f(lock);
}

}  // namespace

void SimulatedBackend::hold(StreamHandle handle) {
  control(*device_, [&](Lock& lock) {
    const auto stream = find_stream(*device_, handle);
    if (stream == nullptr) return;
    stream->mode = SimulatedStream::Mode::held;
    machine().changed.wait(lock, [&] { return !stream->running; });
  });
}

void SimulatedBackend::release(StreamHandle handle) {
  control(*device_, [&](Lock& lock) {
    const auto stream = find_stream(*device_, handle);
    if (stream == nullptr) return;
    stream->mode = SimulatedStream::Mode::automatic;
    schedule(stream);
    run_inline(lock);
  });
}

void SimulatedBackend::release_all() {
  control(*device_, [&](Lock& lock) {
    const auto streams = device_->streams;  // what runs may end some
    for (const auto& [id, stream] : streams) {
      if (stream->mode != SimulatedStream::Mode::held) continue;
      stream->mode = SimulatedStream::Mode::automatic;
      schedule(stream);
    }
    run_inline(lock);
  });
}

std::size_t SimulatedBackend::step(StreamHandle handle, std::size_t operations) {
  return control(*device_, [&](Lock& lock) -> std::size_t {
    const auto stream = find_stream(*device_, handle);
    if (stream == nullptr) return 0;
    std::size_t done = 0;
    while (done < operations) {
      machine().changed.wait(lock, [&] { return !stream->running; });
      if (!stream->can_go_on() || !run_one(lock, stream)) break;
      ++done;
      run_inline(lock);
    }
    schedule(stream);
    run_inline(lock);
    return done;
  });
}

bool SimulatedBackend::step_any() {
  return control(*device_, [&](Lock& lock) { return step_picked(lock, *device_); });
}

std::size_t SimulatedBackend::run_all() {
  return control(*device_, [&](Lock& lock) -> std::size_t {
    std::size_t done = 0;
    for (;;) {
      while (step_picked(lock, *device_)) ++done;
      bool running = false;
      for (const auto& [id, stream] : device_->streams) running = running || stream->running;
      if (!running) return done;
      machine().changed.wait(lock);
    }
  });
}

std::size_t SimulatedBackend::pending(StreamHandle handle) const {
  return control(*device_, [&](Lock&) -> std::size_t {
    const auto stream = find_stream(*device_, handle);
    return stream == nullptr ? 0 : stream->enqueued - stream->completed;
  });
}

std::size_t SimulatedBackend::pending() const {
  return control(*device_, [&](Lock&) {
    std::size_t sum = 0;
    for (const auto& [id, stream] : device_->streams) sum += stream->enqueued - stream->completed;
    return sum;
  });
}

std::size_t SimulatedBackend::blocked_callers() const {
  return control(*device_, [&](Lock&) { return device_->blocked_callers; });
}

std::chrono::nanoseconds SimulatedBackend::now() const {
  return control(*device_, [&](Lock&) { return device_->now; });
}

void SimulatedBackend::fail_call(SimulatedCall kind, std::size_t nth) {
  control(*device_, [&](Lock&) { device_->calls[kind].fail_in = nth; });
}

void SimulatedBackend::before_call(SimulatedCall kind, std::function<void()> run) {
  control(*device_, [&](Lock&) { device_->calls[kind].before.swap(run); });
}

void SimulatedBackend::after_call(SimulatedCall kind, std::function<void()> run) {
  control(*device_, [&](Lock&) { device_->calls[kind].after.swap(run); });
}

void SimulatedBackend::lose_device() {
  Garbage garbage;
  control(*device_, [&](Lock& lock) {
    lose(*device_, "Simulation::lose_device was called", garbage);
    // A copy in the middle of its bytes ends first: after this call nothing moves any more.
    machine().changed.wait(lock, [&] {
      for (const auto& [id, stream] : device_->streams) {
        if (stream->current != nullptr && stream->current->moves_memory()) return false;
      }
      return true;
    });
    run_inline(lock);
  });
}

void* SimulatedBackend::view_of(const void* device_memory) const {
  return control(*device_, [&](Lock&) -> void* {
    const Range* range = machine().device_memory.find(device_memory, 1).range;
    return range == nullptr ? nullptr : range->view + (static_cast<const std::byte*>(device_memory) - range->data);
  });
}

std::size_t SimulatedBackend::pinned_bytes() const {
  return control(*device_, [&](Lock&) { return device_->pinned_bytes; });
}

std::size_t SimulatedBackend::device_bytes() const {
  return control(*device_, [&](Lock&) { return device_->memory.bytes(); });
}

std::size_t SimulatedBackend::live_events() const {
  return control(*device_, [&](Lock&) { return device_->live_events; });
}

std::size_t SimulatedBackend::calls(SimulatedCall kind) const {
  return control(*device_, [&](Lock&) { return device_->calls[kind].calls; });
}

}  // namespace thole::inline v0_1::detail
