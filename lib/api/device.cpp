#include <thole/device.hpp>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include <thole/config.hpp>
#include <thole/simulation.hpp>

#include "api/handle_access.hpp"
#include "backend/device_core.hpp"
#include "backend/simulated/backend.hpp"
#include "base/immortal.hpp"
#include "base/process_exit.hpp"
#include "heap/collect.hpp"
#include "memory/pinned_pool.hpp"
#include "streams/stream_registry.hpp"
#include "streams/watcher.hpp"
#ifdef THOLE_WITH_CUDA
#include "backend/cuda/cuda_backend.hpp"
#endif

namespace thole {
namespace {

using detail::DeviceCore;

std::shared_ptr<DeviceCore> make_core(std::shared_ptr<detail::DeviceBackend> backend) {
  std::shared_ptr<DeviceCore> core(new DeviceCore(std::move(backend)), detail::end_device);
  core->streams = std::make_shared<detail::StreamRegistry>();
  core->collect = detail::collect;
  return core;
}

#ifdef THOLE_WITH_CUDA

/// One core a GPU, by ordinal. Immortal: buffers may be dropped, and streams be asked, after main.
struct Gpus {
  std::mutex mutex;
  std::map<int, std::shared_ptr<DeviceCore>> cores;
};

Result<std::shared_ptr<DeviceCore>> gpu(int ordinal, int connections) {
  auto& [mutex, cores] = detail::immortal<Gpus>();
  const std::scoped_lock lock(mutex);
  if (const auto found = cores.find(ordinal); found != cores.end()) {
    if (connections != 0)
      if (auto set = detail::set_cuda_connections(ordinal, connections); !set)
        return tl::unexpected(std::move(set.error()));
    return found->second;
  }
  auto backend = detail::make_cuda_backend(ordinal, connections);
  if (!backend) return tl::unexpected(std::move(backend.error()));
  detail::end_background_calls_at_exit();
  return cores.emplace(ordinal, make_core(std::move(*backend))).first->second;
}

int gpu_count() { return detail::cuda_device_count(); }

#else

Result<std::shared_ptr<DeviceCore>> gpu(int ordinal, int) {
  return tl::unexpected(Error(Errc::no_device, "Device::cuda: no GPU " + std::to_string(ordinal) +
                                                   ": thole was built without the CUDA toolkit"));
}

int gpu_count() { return 0; }

#endif

/// What the environment variable THOLE_SIMULATION asks of simulated devices that run by themselves.
SimulationOptions as_the_environment_says(SimulationOptions options) {
  const char* const variable = std::getenv("THOLE_SIMULATION");
  if (variable == nullptr || options.stepped) return options;
  constexpr std::string_view seed = "seed=";
  for (std::string_view rest(variable); !rest.empty();) {
    const std::string_view word = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(rest.size(), word.size() + 1));
    const char* const end = word.data() + word.size();
    if (word == "late") {
      options.late = std::chrono::milliseconds(5);
    } else if (!word.starts_with(seed) || word == seed ||
               std::from_chars(word.data() + seed.size(), end, options.seed).ptr != end) {
      throw Error(Errc::invalid_argument, "Device::simulated: THOLE_SIMULATION is \"" + std::string(variable) +
                                              "\", but must be made of \"late\" and \"seed=N\", with commas between");
    }
  }
  return options;
}

std::shared_ptr<DeviceCore> simulated_core(const SimulationOptions& options) {
  return make_core(detail::make_simulated_backend(as_the_environment_says(options)));
}

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
    core = simulated_core({});
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
  auto core = gpu(ordinal, options.connections);
  if (!core) return tl::unexpected(std::move(core.error()));
  return Device(with(std::move(*core), options));
} catch (const std::bad_alloc&) {
  return tl::unexpected(
      Error::make(Errc::out_of_memory, [] { return std::string("Device::cuda: the system has no memory"); }));
}

Device Device::simulated(const SimulationOptions& options, const DeviceOptions& device_options) {
  return Device(with(simulated_core(options), device_options));
}

Device Device::best(const DeviceOptions& options) {
  if (const char* const name = std::getenv("THOLE_DEVICE"); name != nullptr && *name != '\0')
    return device_named(name, options);
  return gpu_count() > 0 ? Device::cuda(0, options) : best_simulated(options);
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

}  // namespace thole
