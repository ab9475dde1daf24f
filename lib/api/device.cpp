#include <thole/device.hpp>

#include <charconv>
#include <cstdlib>
#include <mutex>
#include <string>
#include <utility>

#include <thole/simulation.hpp>

#include "api/handle_access.hpp"
#include "api/known_devices.hpp"
#include "backend/device_core.hpp"
#include "backend/simulated/backend.hpp"
#include "base/immortal.hpp"
#include "memory/pinned_pool.hpp"

namespace thole::inline v0_1 {
namespace {

using detail::DeviceCore;

std::shared_ptr<DeviceCore> with(std::shared_ptr<DeviceCore> core, const DeviceOptions& options) noexcept {
  if (options.blocking_waits) core->events.make_blocking();
  return core;
}

/// The one that Device::best() gives to all. Immortal, as GPUs are.
struct SharedSimulation {
  std::mutex mutex;
  std::shared_ptr<DeviceCore> core;
};

Device best_simulated(const DeviceOptions& options) {
  auto& [mutex, core] = detail::immortal<SharedSimulation>();
  const std::scoped_lock lock(mutex);
  if (core == nullptr) {
    core = detail::new_simulated({});
  }
  return detail::HandleAccess::device(with(core, options));
}

Device device_named(std::string_view name, const DeviceOptions& options) {
  constexpr std::string_view with_ordinal = "cuda:";
  if (name == "simulated") return best_simulated(options);
  if (name == "cuda") return Device::cuda(0, options);
  if (name.starts_with(with_ordinal)) {
    const std::string_view digits = name.substr(with_ordinal.size());
    int ordinal = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), ordinal);
    if (error == std::errc{} && end == digits.data() + digits.size() && ordinal >= 0)
      return Device::cuda(ordinal, options);
  }
  throw Error(Errc::invalid_argument, "Device::best: THOLE_DEVICE is \"" + std::string(name) +
                                          "\", but must be \"cuda\", \"cuda:N\" or \"simulated\"");
}

}  // namespace

Device Device::cuda(int ordinal, const DeviceOptions& options) { return detail::unwrap(try_cuda(ordinal, options)); }

Result<Device> Device::try_cuda(int ordinal, const DeviceOptions& options) noexcept try {
  if (options.connections < 0 || options.connections > 32)
    return tl::unexpected(Error(Errc::invalid_argument, "Device::cuda: " + std::to_string(options.connections) +
                                                            " connections; there may be 1 to 32, or 0: not said"));
  auto core = detail::known_gpu(ordinal, options.connections);
  if (!core) return tl::unexpected(std::move(core.error()));
  return Device(with(std::move(*core), options));
} catch (const std::bad_alloc&) {
  return tl::unexpected(
      Error::make(Errc::out_of_memory, [] { return std::string("Device::cuda: the system has no memory"); }));
}

Device Device::simulated(const SimulationOptions& options, const DeviceOptions& device_options) {
  return Device(with(detail::new_simulated(options), device_options));
}

Device Device::best(const DeviceOptions& options) {
  if (const char* const name = std::getenv("THOLE_DEVICE"); name != nullptr && *name != '\0')
    return device_named(name, options);
  // With a number of connections the count would come too early: it initialises the driver.
  if (options.connections != 0) {
    auto gpu = try_cuda(0, options);
    return gpu || gpu.error().errc() != Errc::no_device ? detail::unwrap(std::move(gpu)) : best_simulated(options);
  }
  return detail::gpu_count() > 0 ? Device::cuda(0, options) : best_simulated(options);
}

detail::DeviceCore& Device::core(const char* call) const {
  if (core_ == nullptr) throw detail::moved_from(call, "the device");
  return *core_;
}

Backend Device::backend() const {
  return core("Device::backend").backend->simulated() ? Backend::simulated : Backend::cuda;
}

std::string_view Device::name() const { return core("Device::name").backend->name(); }
int Device::ordinal() const { return core("Device::ordinal").backend->ordinal(); }

Simulation Device::simulation() const {
  const auto& backend = core("Device::simulation").backend;
  if (!backend->simulated())
    throw Error(Errc::invalid_argument, "Device::simulation: " + std::string(name()) + " is not a simulated device");
  return Simulation(std::static_pointer_cast<detail::SimulatedBackend>(backend));
}

std::size_t Device::trim_pinned() {
  DeviceCore& self = core("Device::trim_pinned");
  if (self.of_another_process()) throw self.lost_error("Device::trim_pinned");
  detail::Status failed;
  const std::size_t bytes = detail::unpin_kept(*self.backend, &failed);
  if (failed.code == detail::StatusCode::not_permitted)
    throw self.error(failed, "Device::trim_pinned", "unregister_host");
  if (!failed.ok()) self.keep_error(failed, "Device::trim_pinned", "unregister_host");
  return bytes;
}

void Device::keep_pinned(std::size_t at_most) {
  DeviceCore& self = core("Device::keep_pinned");
  if (self.of_another_process()) throw self.lost_error("Device::keep_pinned");
  detail::limit_kept(self.backend, at_most);
}

std::size_t Device::kept_pinned() const {
  const DeviceCore& self = core("Device::kept_pinned");
  return self.of_another_process() ? 0 : detail::kept_bytes(*self.backend);
}

bool Device::lost() const { return core("Device::lost").lost(); }
std::optional<Error> Device::take_error() { return core("Device::take_error").take_error(); }

}  // namespace thole::inline v0_1
