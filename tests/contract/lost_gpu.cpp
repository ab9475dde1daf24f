// Promise [6] on a GPU: what each call of the seam says once a kernel's illegal access has ended the device, which it
// does for the whole process, so that this is a program of its own. Exit status 77: there is no GPU, or THOLE_DEVICE
// does not ask for one.

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "../lifetime/fault_kernel.hpp"
#include "backend/cuda/cuda_backend.hpp"
#include "every_call.hpp"

namespace {

using namespace thole::detail;

bool good = true;

void must(bool condition, const std::string& what) {
  std::printf("%s: %s\n", condition ? "good" : "WRONG", what.c_str());
  good = good && condition;
}

void lose(DeviceBackend& backend) {
  contract::EveryCall every(backend);
  must(launch_fault(static_cast<CUstream_st*>(every.stream())), "the kernel is launched");
  must(backend.synchronize_stream(every.stream()).code == StatusCode::device_lost, "who waits for it is told");
  for (const auto& call : every.calls()) {
    const Status status = call.make();
    // A graph goes, and no error is told.
    const bool ok = call.name.starts_with("destroy_graph");
    const bool may_be_ok = ok || contract::EveryCall::may_need_no_call(call.name);
    must((status.code == StatusCode::device_lost && !ok) || (status.ok() && may_be_ok),
         std::string(call.name) + ": " + backend.describe(status));
  }
  must(backend.exchange_capture_mode(CaptureMode::global) == CaptureMode::global, "the capture mode is as it was");
  must(every.pinned()[0] == std::byte{0}, "the memory that was pinned can be read");
}

}  // namespace

int main() try {
  const char* const name = std::getenv("THOLE_DEVICE");
  if (name == nullptr || !std::string_view(name).starts_with("cuda")) return 77;
  auto backend = make_cuda_backend(0);
  if (!backend) throw backend.error();
  lose(**backend);
  return good ? 0 : 1;
} catch (const std::exception& error) {
  std::printf("WRONG: %s\n", error.what());
  return 1;
}
