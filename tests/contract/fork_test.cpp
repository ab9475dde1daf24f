// A forked child: its parent's devices are dead there, and new ones work.

#include <functional>
#include <optional>
#include <thread>
#include <vector>

#include "backend/simulated/backend.hpp"
#include "contract.hpp"
#include "support/child.hpp"

using namespace contract;
using support::in_child;
using thole::SimulationOptions;
using thole::detail::SimulatedBackend;

namespace {

/// A thread that keeps asking the device.
class Busy {
 public:
  explicit Busy(DeviceBackend& backend)
      : thread_([&] {
          const TestEvent event(backend);
          while (!stop_.load(std::memory_order_relaxed)) CONTRACT_OK(backend, query_event(event));
        }) {}
  ~Busy() {
    stop_.store(true, std::memory_order_relaxed);
    thread_.join();
  }
  Busy(const Busy&) = delete;
  Busy& operator=(const Busy&) = delete;

 private:
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace

CONTRACT_CASE("in a forked child every call on the parent's device says device_lost, also beside busy threads [10]") {
  const Pinned host(backend, Pages::page);
  const TestStream stream(backend);
  const OnDevice device(backend, Pages::page, stream);
  const TestEvent event(backend);
  CONTRACT_OK(backend, begin_capture(stream, CaptureMode::relaxed));
  const GraphHandle graph = end_capture(backend, stream);
  Gate gate(backend, stream);
  void* data = nullptr;
  std::uint64_t id = 0;
  CaptureInfo info;
  GraphExecHandle exec = nullptr;
  Count count;
  const std::vector<std::function<Status()>> calls{
      [&] { return backend.register_host(host.data(), Pages::page); },
      [&] { return backend.unregister_host(host.data()); },
      [&] { return backend.allocate_host(Pages::page, &data); },
      [&] { return backend.free_host(host.data()); },
      [&] { return backend.allocate_device(Pages::page, stream, &data); },
      [&] { return backend.free_device(device.data(), stream); },
      [&] { return backend.create_stream(&data); },
      [&] { return backend.destroy_stream(stream); },
      [&] { return backend.synchronize_stream(stream); },
      [&] { return backend.record_device(event); },
      [&] { return backend.stream_id(stream, &id); },
      [&] { return backend.check_stream(stream); },
      [&] { return backend.capture_info(stream, &info); },
      [&] { return backend.create_event(&data); },
      [&] { return backend.destroy_event(event); },
      [&] { return backend.record_event(event, stream); },
      [&] { return backend.query_event(event); },
      [&] { return backend.synchronize_event(event); },
      [&] { return backend.wait_event(stream, event); },
      [&] { return backend.copy(device.data(), host.data(), Pages::page, CopyKind::host_to_device, stream); },
      [&] { return backend.launch_host_function(stream, &Count::add, &count); },
      [&] { return backend.retain_in_graph(graph, &count, &Count::add); },
      [&] { return backend.begin_capture(stream, CaptureMode::global); },
      [&] { return backend.end_capture(stream, &data); },
      [&] { return backend.instantiate_graph(graph, &exec); },
      [&] { return backend.launch_graph(exec, stream); },
      [&] { return backend.destroy_graph(graph); },
      [&] { return backend.destroy_graph_exec(exec); },
  };
  {
    const Busy first(backend);
    const Busy second(backend);
    for (int round = 0; round != 5; ++round) {
      CHECK(in_child([&] {
              int nth = 0;
              for (const auto& call : calls) {
                ++nth;
                if (const Status status = call(); status.code != StatusCode::device_lost) return nth;
                if (backend.describe({StatusCode::device_lost}).empty()) return 100;
              }
              return 0;
            }) == 0);
    }
  }
  gate.open();
  stream.synchronize();
  CHECK(count.value() == 0);
  CONTRACT_OK(backend, destroy_graph(graph));
}

TEST_CASE("a forked child ends its parent's simulated devices at once, and makes new ones that work") {
  std::optional<SimulatedBackend> parents(std::in_place, SimulationOptions{});
  Count ran;
  {
    const Busy first(*parents);
    const TestStream held(*parents);
    parents->hold(held);
    CONTRACT_OK(*parents, launch_host_function(held, &Count::add, &ran));
    for (int round = 0; round != 5; ++round) {
      CHECK(in_child([&] {
              parents->release(held);
              if (parents->pending() != 0 || parents->run_all() != 0 || parents->step(held, 1) != 0) return 1;
              parents.reset();
              SimulationOptions options;
              options.stepped = true;
              SimulatedBackend own(options);
              StreamHandle stream = nullptr;
              if (!own.create_stream(&stream).ok()) return 2;
              if (!own.launch_host_function(stream, &Count::add, &ran).ok()) return 3;
              if (own.run_all() != 1 || ran.value() != 1) return 4;
              return own.destroy_stream(stream).ok() ? 0 : 5;
            }) == 0);
    }
    CHECK(ran.value() == 0);
    parents->release(held);
    held.synchronize();
  }
  CHECK(ran.value() == 1);
}
