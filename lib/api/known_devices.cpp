#include "api/known_devices.hpp"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <thole/config.hpp>

#include "backend/simulated/backend.hpp"
#include "base/immortal.hpp"
#include "base/process_exit.hpp"
#include "heap/collect.hpp"
#include "streams/stream_registry.hpp"
#include "streams/watcher.hpp"
#ifdef THOLE_WITH_CUDA
#include "backend/cuda/cuda_backend.hpp"
#endif

namespace thole::inline v0_1::detail {
namespace {

std::shared_ptr<DeviceCore> make_core(std::shared_ptr<DeviceBackend> backend) {
  std::shared_ptr<DeviceCore> core(new DeviceCore(std::move(backend)), end_device);
  core->streams = std::make_shared<StreamRegistry>();
  core->collect = collect;
  core->events.refill();
  (void)core->streams->freeing.prepare(*core);
  return core;
}

Error no_stream(DeviceCore& asked, Status status) {
  return asked.error(status, "a native stream", "asking whose it is");
}

// ---- Simulated devices

struct Simulations {
  std::mutex mutex;
  std::vector<std::weak_ptr<DeviceCore>> cores;
};

thread_local std::weak_ptr<DeviceBackend> current_simulated;

/// The living core for which `is(core)`, or nullptr.
template <class F>
std::shared_ptr<DeviceCore> find_simulated(F is) {
  std::vector<std::shared_ptr<DeviceCore>> living;  // let go of after the lock: each may be the last reference
  {
    auto& all = immortal<Simulations>();
    const std::scoped_lock lock(all.mutex);
    living.reserve(all.cores.size());
    for (const auto& weak : all.cores)
      if (auto core = weak.lock(); core != nullptr) living.push_back(std::move(core));
  }
  const auto found = std::ranges::find_if(living, is);
  return found != living.end() ? *found : nullptr;
}

/// As CUDA has it: 0, cudaStreamLegacy, cudaStreamPerThread.
bool is_default(StreamHandle stream) noexcept { return reinterpret_cast<std::uintptr_t>(stream) <= 2; }

std::shared_ptr<DeviceCore> simulated_device_of(const std::shared_ptr<DeviceCore>& near, StreamHandle native) {
  if (is_default(native)) {
    const auto current = current_simulated.lock();
    if (current == nullptr || current == near->backend) return near;
    auto found = find_simulated([&](const auto& core) { return core->backend == current; });
    return found != nullptr ? found : near;
  }
  if (near->backend->check_stream(native).code != StatusCode::wrong_device) return near;
  auto found = find_simulated([&](const auto& core) { return core->backend->check_stream(native).ok(); });
  return found != nullptr ? found : near;
}

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

}  // namespace

std::shared_ptr<DeviceCore> new_simulated(const SimulationOptions& options) {
  auto core = make_core(make_simulated_backend(as_the_environment_says(options)));
  auto& all = immortal<Simulations>();
  const std::scoped_lock lock(all.mutex);
  std::erase_if(all.cores, [](const auto& other) { return other.expired(); });
  all.cores.push_back(core);
  return core;
}

void make_current(const std::shared_ptr<DeviceBackend>& simulated) noexcept { current_simulated = simulated; }

// ---- GPUs

#ifdef THOLE_WITH_CUDA

namespace {

/// One core a GPU, by ordinal. Immortal: buffers may be dropped, and streams be asked, after main.
struct Gpus {
  std::mutex mutex;
  std::map<int, std::shared_ptr<DeviceCore>> cores;
};

Result<std::shared_ptr<DeviceCore>> gpu_of(const std::shared_ptr<DeviceCore>& near, StreamHandle native) {
  int ordinal = 0;
  const Status status = cuda_device_of(native, &ordinal);
  if (status.code == StatusCode::capture) return near;  // an invalidated one, whose stream cannot be asked
  if (!status.ok()) return tl::unexpected(no_stream(*near, status));
  return ordinal == near->backend->ordinal() ? near : known_gpu(ordinal, 0);
}

}  // namespace

Result<std::shared_ptr<DeviceCore>> known_gpu(int ordinal, int connections) {
  auto& [mutex, cores] = immortal<Gpus>();
  const std::scoped_lock lock(mutex);
  if (const auto found = cores.find(ordinal); found != cores.end()) {
    if (connections != 0)
      if (auto set = set_cuda_connections(ordinal, connections); !set) return tl::unexpected(std::move(set.error()));
    return found->second;
  }
  auto backend = make_cuda_backend(ordinal, connections);
  if (!backend) return tl::unexpected(std::move(backend.error()));
  end_calls_at_exit();
  return cores.emplace(ordinal, make_core(std::move(*backend))).first->second;
}

int gpu_count() noexcept { return cuda_device_count(); }

#else

namespace {

Result<std::shared_ptr<DeviceCore>> gpu_of(const std::shared_ptr<DeviceCore>& near, StreamHandle) { return near; }

}  // namespace

Result<std::shared_ptr<DeviceCore>> known_gpu(int ordinal, int) {
  return tl::unexpected(Error(Errc::no_device, "Device::cuda: no GPU " + std::to_string(ordinal) +
                                                   ": thole was built without the CUDA toolkit"));
}

int gpu_count() noexcept { return 0; }

#endif

Result<std::shared_ptr<DeviceCore>> device_of_native(const std::shared_ptr<DeviceCore>& near,
                                                     StreamHandle native) noexcept try {
  if (near->of_another_process()) return near;  // which says so
  if (near->backend->simulated()) return simulated_device_of(near, native);
  return gpu_of(near, native);
} catch (const std::bad_alloc&) {
  return tl::unexpected(no_stream(*near, {StatusCode::out_of_memory}));
}

}  // namespace thole::inline v0_1::detail
