#include <thole/device.hpp>

#include <charconv>
#include <cstdlib>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include <thole/config.hpp>

#include "api/handle_access.hpp"
#include "backend/device_core.hpp"
#include "backend/simulated/backend.hpp"
#include "base/process_exit.hpp"
#include "heap/collect.hpp"
#include "streams/stream_registry.hpp"
#ifdef THOLE_WITH_CUDA
#include "backend/cuda/cuda_backend.hpp"
#endif

namespace thole {
namespace {

using detail::DeviceCore;

std::shared_ptr<DeviceCore> make_core(std::shared_ptr<detail::DeviceBackend> backend) {
  auto core = std::make_shared<DeviceCore>(std::move(backend));
  core->streams = std::make_shared<detail::StreamRegistry>();
  core->collect = detail::collect;
  return core;
}

#ifdef THOLE_WITH_CUDA

/// One core a GPU. Never destroyed: buffers may be dropped, and streams be asked, after main.
struct Gpus {
  std::mutex mutex;
  std::vector<std::shared_ptr<DeviceCore>> cores;  // by ordinal; nullptr: not used yet
};

Result<std::shared_ptr<DeviceCore>> gpu(int ordinal) {
  static auto* const gpus = new Gpus;
  const int count = detail::cuda_device_count();
  if (ordinal < 0 || ordinal >= count)
    return tl::unexpected(Error(Errc::no_device, "Device::cuda: there is no GPU with ordinal " +
                                                     std::to_string(ordinal) + "; CUDA finds " +
                                                     std::to_string(count)));
  const std::scoped_lock lock(gpus->mutex);
  const auto index = static_cast<std::size_t>(ordinal);
  if (gpus->cores.size() <= index) gpus->cores.resize(index + 1);
  if (gpus->cores[index] == nullptr) {
    auto backend = detail::make_cuda_backend(ordinal);
    if (!backend) return tl::unexpected(std::move(backend.error()));
    detail::end_background_calls_at_exit();
    auto core = make_core(std::move(*backend));
    gpus->cores[index] = std::move(core);
  }
  return gpus->cores[index];
}

int gpu_count() { return detail::cuda_device_count(); }

#else

Result<std::shared_ptr<DeviceCore>> gpu(int ordinal) {
  return tl::unexpected(Error(Errc::no_device, "Device::cuda: no GPU " + std::to_string(ordinal) +
                                                   ": thole was built without the CUDA toolkit"));
}

int gpu_count() { return 0; }

#endif

Device device_named(std::string_view name) {
  constexpr std::string_view with_ordinal = "cuda:";
  if (name == "simulated") return Device::simulated();
  if (name == "cuda") return Device::cuda();
  if (name.starts_with(with_ordinal)) {
    const std::string_view digits = name.substr(with_ordinal.size());
    int ordinal = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), ordinal);
    if (error == std::errc{} && end == digits.data() + digits.size() && ordinal >= 0) return Device::cuda(ordinal);
  }
  throw Error(Errc::invalid_argument, "Device::best: THOLE_DEVICE is \"" + std::string(name) +
                                          "\", but must be \"cuda\", \"cuda:N\" or \"simulated\"");
}

}  // namespace

Device Device::cuda(int ordinal) { return detail::unwrap(try_cuda(ordinal)); }

Result<Device> Device::try_cuda(int ordinal) noexcept try {
  auto core = gpu(ordinal);
  if (!core) return tl::unexpected(std::move(core.error()));
  return Device(std::move(*core));
} catch (const std::bad_alloc&) {
  return tl::unexpected(
      Error::make(Errc::out_of_memory, [] { return std::string("Device::cuda: the system has no memory"); }));
}

Device Device::simulated(const SimulationOptions& options) {
  return Device(make_core(detail::make_simulated_backend(options)));
}

Device Device::best() {
  if (const char* const name = std::getenv("THOLE_DEVICE"); name != nullptr && *name != '\0') return device_named(name);
  return gpu_count() > 0 ? Device::cuda() : Device::simulated();
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

bool Device::lost() const { return core("Device::lost").lost(); }
std::optional<Error> Device::take_error() { return core("Device::take_error").take_error(); }

}  // namespace thole
