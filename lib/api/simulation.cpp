#include <thole/simulation.hpp>

#include <string>
#include <utility>

#include <thole/error.hpp>
#include <thole/stream.hpp>

#include "api/handle_access.hpp"
#include "api/known_devices.hpp"
#include "backend/device_core.hpp"
#include "backend/simulated/backend.hpp"
#include "memory/pinned_pool.hpp"

namespace thole::inline v0_1 {

namespace {

void check(const detail::SimulatedBackend& backend, detail::Status status, const char* call) {
  if (!status.ok()) throw Error(detail::errc_of(status.code), std::string(call) + ": " + backend.describe(status));
}

/// The raw handle of one of the device's own streams; nothing is recorded. A handle alone does not say whose it is: the
/// simulated devices of a process share them, and the default streams' are the same in each.
detail::StreamHandle own(const detail::SimulatedBackend& backend, const StreamRef& stream, const char* call) {
  const auto& timeline = *detail::unwrap(detail::HandleAccess::timeline(stream, call));
  const detail::DeviceBackend& device = *timeline.device()->backend;
  if (&device != &backend)
    throw Error::make(Errc::wrong_device, [&] {
      return std::string(call) + ": stream " + std::to_string(timeline.id()) + " is of one device (" +
             std::string(device.name()) + "), and the simulation of another (" + std::string(backend.name()) + ")";
    });
  return timeline.native();
}

detail::CaptureMode mode_of(SimulatedCaptureMode mode) {
  switch (mode) {
    case SimulatedCaptureMode::thread_local_:
      return detail::CaptureMode::thread_local_;
    case SimulatedCaptureMode::relaxed:
      return detail::CaptureMode::relaxed;
    case SimulatedCaptureMode::global:
      break;
  }
  return detail::CaptureMode::global;
}

}  // namespace

Simulation::Simulation(std::shared_ptr<detail::SimulatedBackend> backend) noexcept : backend_(std::move(backend)) {}

void Simulation::make_current() { detail::make_current(backend_); }

void Simulation::hold(const StreamRef& stream) { backend_->hold(own(*backend_, stream, "Simulation::hold")); }
void Simulation::release(const StreamRef& stream) { backend_->release(own(*backend_, stream, "Simulation::release")); }
std::size_t Simulation::step(const StreamRef& stream, std::size_t operations) {
  return backend_->step(own(*backend_, stream, "Simulation::step"), operations);
}
bool Simulation::step_any() { return backend_->step_any(); }
std::size_t Simulation::run_all() { return backend_->run_all(); }
std::size_t Simulation::pending(const StreamRef& stream) const {
  return backend_->pending(own(*backend_, stream, "Simulation::pending"));
}
std::size_t Simulation::pending() const { return backend_->pending(); }
std::size_t Simulation::blocked_callers() const { return backend_->blocked_callers(); }
std::chrono::nanoseconds Simulation::now() const { return backend_->now(); }
void Simulation::fail_call(SimulatedCall call, std::size_t nth) { backend_->fail_call(call, nth); }
void Simulation::before_call(SimulatedCall call, std::function<void()> run) {
  backend_->before_call(call, std::move(run));
}
void Simulation::after_call(SimulatedCall call, std::function<void()> run) {
  backend_->after_call(call, std::move(run));
}
void Simulation::lose_device() { backend_->lose_device(); }
void* Simulation::view_of_memory(const void* device_memory) const { return backend_->view_of(device_memory); }
std::size_t Simulation::pinned_bytes() const { return backend_->pinned_bytes(); }
std::size_t Simulation::arena_bytes() const { return detail::bytes_in_use(*backend_); }
std::size_t Simulation::device_bytes() const { return backend_->device_bytes(); }
std::size_t Simulation::live_events() const { return backend_->live_events(); }
std::size_t Simulation::calls(SimulatedCall call) const { return backend_->calls(call); }

void Simulation::begin_capture(const StreamRef& stream, SimulatedCaptureMode mode) {
  constexpr const char* call = "Simulation::begin_capture";
  (void)own(*backend_, stream, call);
  check(*backend_, backend_->begin_capture(stream.native(), mode_of(mode)), call);
}

SimulatedGraph Simulation::end_capture(const StreamRef& stream) {
  constexpr const char* call = "Simulation::end_capture";
  (void)own(*backend_, stream, call);
  void* graph = nullptr;
  check(*backend_, backend_->end_capture(stream.native(), &graph), call);
  return Graph::from_native(stream.device(), static_cast<NativeGraph>(graph));
}

}  // namespace thole::inline v0_1
