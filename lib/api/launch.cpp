#include <thole/launch.hpp>

#include <new>
#include <vector>

#include <thole/detail/kept.hpp>

#include "api/handle_access.hpp"
#include "backend/simulated/backend.hpp"

namespace thole::inline v0_1::detail {

Result<bool> runs_on_cpu(const StreamRef& stream, const char* call) noexcept {
  auto timeline = HandleAccess::live_timeline(stream, call);
  if (!timeline) return tl::unexpected(std::move(timeline.error()));
  return (*timeline)->device()->backend->simulated();
}

Result<void> launch_on_cpu(const StreamRef& stream, const ListedUse* listed, std::size_t count, const CpuKernel& kernel,
                           const char* call) noexcept try {
  auto timeline = HandleAccess::live_timeline(stream, call);
  if (!timeline) return tl::unexpected(std::move(timeline.error()));
  DeviceCore& device = *(*timeline)->device();
  std::vector<SimulatedBackend::KernelUse> uses;
  uses.reserve(count);
  std::vector<const void*> places(count);
  Status status;
  auto enqueue = [&](NativeStream native) {
    for (std::size_t i = 0; i != count; ++i)
      uses.push_back({const_cast<void*>(places[i]), listed[i].bytes, listed[i].writes});
    auto& backend = static_cast<SimulatedBackend&>(*device.backend);
    status = backend.launch_kernel(native, uses.data(), uses.size(), kernel.run, kernel.function);
  };
  auto run = run_uses(
      stream, listed, count, call,
      [](void* context, NativeStream native) { (*static_cast<decltype(enqueue)*>(context))(native); }, &enqueue,
      places.data());
  if (!run) return run;
  if (!status.ok()) return tl::unexpected(device.error(status, call, "enqueueing the function for the CPU"));
  return {};
} catch (const std::bad_alloc&) {
  return tl::unexpected(no_system_memory(call));
}

}  // namespace thole::inline v0_1::detail
