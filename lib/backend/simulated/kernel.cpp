#include "backend/simulated/kernel.hpp"

#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "backend/simulated/backend.hpp"
#include "backend/simulated/call.hpp"
#include "backend/simulated/device_memory.hpp"
#include "base/host_function.hpp"

namespace thole::inline v0_1::detail {

using namespace simulated;

namespace simulated {

namespace {

/// An exception that leaves the function ends the process on every device: also where a test's own thread steps it.
void run_function(const Kernel& kernel, void* const* places) noexcept {
  const InHostFunction no_calls;
  kernel.run(kernel.function.get(), places);
}

}  // namespace

const char* run_kernel(Lock& lock, const Kernel& kernel) {
  std::vector<std::unique_ptr<DeviceView>> views;
  std::vector<void*> pointers;
  for (const Kernel::Argument& argument : kernel.arguments) {
    if (argument.bytes == 0) {
      pointers.push_back(nullptr);
      continue;
    }
    if (!same_pages(argument.data, argument.bytes))
      return "a kernel met other pages than were pinned there: CUDA would have gone on with the old ones, and said "
             "nothing";
    std::byte* place = reach(argument.data, argument.bytes, argument.id);
    if (place == nullptr)
      return "illegal access: a kernel used memory that is not pinned or not allocated any more, or not yet";
    if (machine().device_memory.find(argument.data, argument.bytes).range != nullptr) {
      views.push_back(std::make_unique<DeviceView>(place, argument.bytes, argument.writes));
      place = views.back()->data();
      if (place == nullptr) return "the system has no memory for a kernel's view of device memory";
    }
    pointers.push_back(place);
  }
  lock.unlock();
  run_function(kernel, pointers.data());
  views.clear();
  lock.lock();
  return nullptr;
}

}  // namespace simulated

Status SimulatedBackend::launch_kernel(StreamHandle handle, const KernelUse* uses, std::size_t count,
                                       void (*run)(void*, void* const*), std::shared_ptr<void> function) noexcept {
  return stream_call(*device_, SimulatedCall::kernel, handle, [&](Lock&, const auto& stream) -> Status {
    auto kernel = std::make_shared<Kernel>();
    kernel->run = run;
    kernel->function = std::move(function);
    for (const KernelUse& use : std::span(uses, count)) {
      Kernel::Argument argument{use.data, use.bytes, 0, use.writes};
      if (use.bytes != 0) {
        const Range* range = machine().device_memory.find(use.data, use.bytes).range;
        if (range == nullptr) range = machine().pinned.find(use.data, use.bytes).range;
        if (range == nullptr) range = machine().mapped.find(use.data, use.bytes).range;
        if (range == nullptr) return refuse(Refusal::invalid_value);
        if (range->read_only && use.writes) return refuse(Refusal::read_only);
        argument.id = range->id;
      }
      kernel->arguments.push_back(argument);
    }
    Operation operation;
    operation.kind = Operation::Kind::kernel;
    operation.kernel = std::move(kernel);
    if (stream->capture) return capture_node(*stream, std::move(operation));
    enqueue(stream, std::move(operation));
    return {};
  });
}

}  // namespace thole::inline v0_1::detail
