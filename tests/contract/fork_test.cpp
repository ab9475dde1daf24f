// A forked child: its parent's devices are dead there, and new ones work.

#include <cstdio>
#include <optional>
#include <string>
#include <thread>

#include "backend/simulated/backend.hpp"
#include "contract.hpp"
#include "every_call.hpp"
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
  EveryCall every(backend);
  Count count;
  Gate gate(backend, every.stream());
  CONTRACT_OK(backend, launch_host_function(every.stream(), &Count::add, &count));
  const auto calls = every.calls();
  {
    const Busy first(backend);
    const Busy second(backend);
    for (int round = 0; round != 5; ++round) {
      CHECK(in_child([&] {
              int wrong = 0;
              for (const auto& call : calls) {
                const Status status = call.make();
                if (status.code == StatusCode::device_lost) continue;
                if (call.name == "device_address" && status.ok()) continue;
                std::fprintf(stderr, "%s: %d\n", std::string(call.name).c_str(), static_cast<int>(status.code));
                ++wrong;
              }
              if (backend.describe({StatusCode::device_lost}).empty()) ++wrong;
              return wrong;
            }) == 0);
    }
  }
  CHECK(count.value() == 0);
  gate.open();
  every.let_go();
  CHECK(count.value() == 1);
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
