// Promise [6] on a GPU: what each call of the seam says once a kernel's illegal access has ended the device, which it
// does for the whole process, so that this is a program of its own. Exit status 77: there is no GPU, or THOLE_DEVICE
// does not ask for one.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "../lifetime/fault_kernel.hpp"
#include "backend/cuda/cuda_backend.hpp"

namespace {

using namespace thole::detail;

constexpr std::size_t bytes = 4096;
bool good = true;

void must(bool condition, const std::string& what) {
  std::printf("%s: %s\n", condition ? "good" : "WRONG", what.c_str());
  good = good && condition;
}

void nothing(void*) {}

void lose(DeviceBackend& backend) {
  const auto make = [&](const char* call, Status status) {
    if (!status.ok()) must(false, std::string(call) + " before the loss: " + backend.describe(status));
  };
  alignas(bytes) static std::byte pages[bytes], others[bytes];
  StreamHandle stream = nullptr, capturing = nullptr;
  EventHandle event = nullptr, from = nullptr, to = nullptr;
  GraphHandle graph = nullptr;
  GraphExecHandle exec = nullptr, made_exec = nullptr;
  void *from_driver = nullptr, *device = nullptr, *made = nullptr;
  std::uint64_t id = 0;
  int priority = 0;
  CaptureInfo info;
  const void* address = nullptr;
  std::chrono::nanoseconds time{0};
  make("create_stream", backend.create_stream(&stream));
  make("create_stream", backend.create_stream(&capturing));
  make("create_event", backend.create_event(&event));
  make("create_event", backend.create_event(&from, {.timing = true}));
  make("create_event", backend.create_event(&to, {.timing = true}));
  make("record_event", backend.record_event(from, stream));
  make("record_event", backend.record_event(to, stream));
  make("register_host", backend.register_host(pages, bytes));
  make("allocate_host", backend.allocate_host(bytes, &from_driver));
  make("allocate_device", backend.allocate_device(bytes, stream, &device));
  make("begin_capture", backend.begin_capture(capturing, CaptureMode::relaxed));
  make("launch_host_function", backend.launch_host_function(capturing, nothing, nullptr));
  make("end_capture", backend.end_capture(capturing, &graph));
  make("instantiate_graph", backend.instantiate_graph(graph, &exec));
  make("synchronize_stream", backend.synchronize_stream(stream));
  must(launch_fault(static_cast<CUstream_st*>(stream)), "the kernel is launched");
  make("record_event", backend.record_event(event, stream));

  struct Call {
    std::string_view name;
    std::function<Status()> make;
  };
  const std::vector<Call> refused{
      {"synchronize_stream", [&] { return backend.synchronize_stream(stream); }},
      {"record_device", [&] { return backend.record_device(event); }},
      {"query_event", [&] { return backend.query_event(event); }},
      {"synchronize_event", [&] { return backend.synchronize_event(event); }},
      {"record_event", [&] { return backend.record_event(event, stream); }},
      {"wait_event", [&] { return backend.wait_event(capturing, event); }},
      {"elapsed", [&] { return backend.elapsed(from, to, &time); }},
      {"copy", [&] { return backend.copy(device, pages, bytes, CopyKind::host_to_device, stream); }},
      {"launch_host_function", [&] { return backend.launch_host_function(stream, nothing, nullptr); }},
      {"launch_graph", [&] { return backend.launch_graph(exec, stream); }},
      {"allocate_device", [&] { return backend.allocate_device(bytes, stream, &made); }},
      {"free_device", [&] { return backend.free_device(device, stream); }},
      {"create_stream", [&] { return backend.create_stream(&made); }},
      {"create_event", [&] { return backend.create_event(&made); }},
      {"register_host", [&] { return backend.register_host(others, bytes); }},
      {"allocate_host", [&] { return backend.allocate_host(bytes, &made); }},
      {"begin_capture", [&] { return backend.begin_capture(capturing, CaptureMode::relaxed); }},
      {"instantiate_graph", [&] { return backend.instantiate_graph(graph, &made_exec); }},
      {"stream_id", [&] { return backend.stream_id(stream, &id); }},
      {"stream_priority", [&] { return backend.stream_priority(stream, &priority); }},
      {"capture_info", [&] { return backend.capture_info(stream, &info); }},
      {"unregister_host", [&] { return backend.unregister_host(pages); }},
      {"free_host", [&] { return backend.free_host(from_driver); }},
      {"destroy_event", [&] { return backend.destroy_event(event); }},
      {"destroy_stream", [&] { return backend.destroy_stream(stream); }},
  };
  for (const Call& call : refused) {
    const Status status = call.make();
    must(status.code == StatusCode::device_lost, std::string(call.name) + ": " + backend.describe(status));
  }
  must(backend.destroy_graph_exec(exec).ok(), "a graph's executable goes");
  must(backend.destroy_graph(graph).ok(), "a graph goes");
  // These may need no call of the driver.
  std::printf("check_stream: %s\n", backend.describe(backend.check_stream(capturing)).c_str());
  std::printf("device_address: %s\n", backend.describe(backend.device_address(pages, &address)).c_str());
  must(backend.exchange_capture_mode(CaptureMode::global) == CaptureMode::global, "the capture mode is as it was");
  must(pages[bytes - 1] == std::byte{0}, "the memory that was pinned can be read");
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
