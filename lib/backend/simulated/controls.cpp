// The controls of the simulated device: what class Simulation offers to tests.

#include <vector>

#include "backend/simulated/backend.hpp"
#include "backend/simulated/call.hpp"
#include "backend/simulated/run.hpp"

namespace thole::detail {

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

}  // namespace

void SimulatedBackend::hold(StreamHandle handle) {
  Lock lock(machine().mutex);
  const auto stream = find_stream(*device_, handle);
  if (stream == nullptr) return;
  stream->mode = SimulatedStream::Mode::held;
  machine().changed.wait(lock, [&] { return !stream->running; });
}

void SimulatedBackend::release(StreamHandle handle) {
  Lock lock(machine().mutex);
  const auto stream = find_stream(*device_, handle);
  if (stream == nullptr) return;
  stream->mode = SimulatedStream::Mode::automatic;
  schedule(stream);
  run_inline(lock);
}

std::size_t SimulatedBackend::step(StreamHandle handle, std::size_t operations) {
  Lock lock(machine().mutex);
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
}

bool SimulatedBackend::step_any() {
  Lock lock(machine().mutex);
  return step_picked(lock, *device_);
}

std::size_t SimulatedBackend::run_all() {
  Lock lock(machine().mutex);
  std::size_t done = 0;
  for (;;) {
    while (step_picked(lock, *device_)) ++done;
    bool running = false;
    for (const auto& [id, stream] : device_->streams) running = running || stream->running;
    if (!running) return done;
    machine().changed.wait(lock);
  }
}

std::size_t SimulatedBackend::pending(StreamHandle handle) const {
  const Lock lock(machine().mutex);
  const auto stream = find_stream(*device_, handle);
  return stream == nullptr ? 0 : stream->enqueued - stream->completed;
}

std::size_t SimulatedBackend::pending() const {
  const Lock lock(machine().mutex);
  std::size_t sum = 0;
  for (const auto& [id, stream] : device_->streams) sum += stream->enqueued - stream->completed;
  return sum;
}

std::size_t SimulatedBackend::blocked_callers() const {
  const Lock lock(machine().mutex);
  return device_->blocked_callers;
}

std::chrono::nanoseconds SimulatedBackend::now() const {
  const Lock lock(machine().mutex);
  return device_->now;
}

void SimulatedBackend::fail_call(SimulatedCall kind, std::size_t nth) {
  const Lock lock(machine().mutex);
  device_->counters[kind].fail_in = nth;
}

void SimulatedBackend::lose_device() {
  Garbage garbage;
  Lock lock(machine().mutex);
  lose(*device_, "Simulation::lose_device was called", garbage);
  // A copy in the middle of its bytes ends first: after this call nothing moves any more.
  machine().changed.wait(lock, [&] {
    for (const auto& [id, stream] : device_->streams) {
      if (stream->current != nullptr && stream->current->kind == Operation::Kind::copy) return false;
    }
    return true;
  });
  run_inline(lock);
  lock.unlock();
}

std::size_t SimulatedBackend::pinned_bytes() const {
  const Lock lock(machine().mutex);
  return device_->pinned_bytes;
}

std::size_t SimulatedBackend::device_bytes() const {
  const Lock lock(machine().mutex);
  return device_->memory.bytes();
}

std::size_t SimulatedBackend::live_events() const {
  const Lock lock(machine().mutex);
  return device_->live_events;
}

std::size_t SimulatedBackend::calls(SimulatedCall kind) const {
  const Lock lock(machine().mutex);
  return device_->counters[kind].calls;
}

}  // namespace thole::detail
