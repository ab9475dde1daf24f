#include "backend/simulated/machine.hpp"

#include <atomic>

#include "base/immortal.hpp"

namespace thole::inline v0_1::detail::simulated {

Machine& machine() noexcept { return immortal<Machine>(); }

Duration SimulatedDevice::time_for(const Operation& operation) const noexcept {
  // An event, and a wait that need not wait, take a GPU next to no time.
  if (operation.kind == Operation::Kind::record || operation.kind == Operation::Kind::wait) return Duration{0};
  Duration time = options.latency;
  if (operation.kind == Operation::Kind::copy && options.bytes_per_second > 0) {
    time += std::chrono::duration_cast<Duration>(
        std::chrono::duration<double>(static_cast<double>(operation.bytes) / options.bytes_per_second));
  }
  return time;
}

Link* SimulatedDevice::link_of(const Operation& operation) noexcept {
  if (operation.kind != Operation::Kind::copy || options.bytes_per_second <= 0) return nullptr;
  if (operation.way == CopyKind::host_to_device) return &to_device;
  return operation.way == CopyKind::device_to_host ? &from_device : nullptr;
}

}  // namespace thole::inline v0_1::detail::simulated
