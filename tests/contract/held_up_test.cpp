// Calls that wait for another thread's: while that waits for room in a full queue, or unpins memory beside running
// work.

#include <atomic>
#include <functional>
#include <optional>
#include <thread>
#include <vector>

#include "backend/simulated/backend.hpp"
#include "contract.hpp"

using namespace contract;
using thole::detail::SimulatedBackend;

namespace {

constexpr std::size_t bytes = 16 * Pages::page;
constexpr int more_than_fit = 5000;

/// Until `callers` wait in the device, of which one counts the calls that it makes, or has made `most`. A GPU does not
/// say who waits: there that one has come no further while this thread made very many calls, each by `go_on`.
template <class GoOn>
void until_held_up(DeviceBackend& backend, std::size_t callers, const std::atomic<int>& calls, int most, GoOn go_on) {
  if (backend.simulated()) {
    const auto& simulated = static_cast<const SimulatedBackend&>(backend);
    while (simulated.blocked_callers() != callers && calls < most) std::this_thread::yield();
    return;
  }
  constexpr int very_many = 5000;
  int last = -1;
  for (int quiet = 0; quiet != very_many && calls < most; ++quiet) {
    go_on();
    if (const int now = calls; now != last || now == 0) {
      last = now;
      quiet = 0;
    }
  }
}

/// Calls, each on a thread of its own, that must not return before `open` says that they may.
class HeldUp {
 public:
  explicit HeldUp(const std::vector<std::function<Status()>>& calls) {
    for (const auto& call : calls)
      threads_.emplace_back([this, &call, number = threads_.size()] {
        CAPTURE(number);
        ++begun_;
        CHECK(call().ok());
        CHECK(opened_);
      });
    while (begun_ != calls.size()) std::this_thread::yield();
  }
  HeldUp(const HeldUp&) = delete;
  HeldUp& operator=(const HeldUp&) = delete;
  ~HeldUp() {
    for (auto& thread : threads_) thread.join();
  }
  void open() { opened_ = true; }

 private:
  std::atomic<bool> opened_{false};
  std::atomic<std::size_t> begun_{0};
  std::vector<std::thread> threads_;
};

/// Fills the queue of a stream that is stuck, on a thread of its own, until the stream is opened: with copies, or with
/// launches of a graph of so many.
class FullQueue {
 public:
  explicit FullQueue(DeviceBackend& backend, std::size_t nodes = 0)
      : backend_(backend), stuck_(backend), other_(backend), device_(backend, bytes, stuck_), host_(backend, bytes) {
    stuck_.synchronize();
    const auto copy = [&] { return backend_.copy(device_.data(), host_.data(), 8, CopyKind::host_to_device, stuck_); };
    if (nodes != 0) {
      CONTRACT_OK(backend, begin_capture(stuck_, CaptureMode::relaxed));
      for (std::size_t i = 0; i != nodes; ++i) CHECK(copy().ok());
      graph_.emplace(backend, end_capture(backend, stuck_));
    }
    gate_.emplace(backend, stuck_);
    giver_ = std::thread([this, copy] {
      for (; given_ != more_than_fit; ++given_) {
        if (graph_) {
          graph_->launch(stuck_);
        } else {
          CHECK(copy().ok());
        }
      }
      CHECK(opened_);
    });
    until_held_up(backend, 1, given_, more_than_fit, [&] { round_trip(); });
  }
  FullQueue(const FullQueue&) = delete;
  FullQueue& operator=(const FullQueue&) = delete;
  ~FullQueue() {
    open();
    giver_.join();
    stuck_.synchronize();
  }
  int given() const { return given_; }
  /// Work in another stream, of this thread, to its end.
  void round_trip() const {
    CONTRACT_OK(backend_, copy(device_.data() + 8, host_.data() + 8, 8, CopyKind::host_to_device, other_));
    other_.synchronize();
  }
  void open() {
    opened_ = true;
    gate_->open();
  }

 private:
  DeviceBackend& backend_;
  const TestStream stuck_, other_;
  const OnDevice device_;
  const Pinned host_;
  std::optional<TestGraph> graph_;
  std::optional<Gate> gate_;
  std::atomic<bool> opened_{false};
  std::atomic<int> given_{0};
  std::thread giver_;
};

/// What the calls make, and what they let go of.
struct Scene {
  explicit Scene(DeviceBackend& device)
      : backend(device), stream(device), captures(device), pages(bytes), pinned(bytes) {
    CONTRACT_OK(backend, create_stream(&gone_stream));
    CONTRACT_OK(backend, create_event(&gone_event));
    CONTRACT_OK(backend, register_host(pinned.data(), bytes));
    CONTRACT_OK(backend, allocate_host(bytes, &gone_memory));
  }
  Scene(const Scene&) = delete;
  Scene& operator=(const Scene&) = delete;
  ~Scene() {
    const GraphHandle graph = end_capture(backend, captures);
    CHECK(backend.destroy_graph(graph).ok());
    stream.synchronize();
    CHECK(backend.destroy_stream(made_stream).ok());
    CHECK(backend.destroy_event(made_event).ok());
    CHECK(backend.unregister_host(pages.data()).ok());
    CHECK(backend.free_host(made_memory).ok());
    CHECK(count.value() == 1);
  }
  std::vector<std::function<Status()>> calls() {
    return {[&] { return backend.create_event(&made_event); },
            [&] { return backend.destroy_event(gone_event); },
            [&] { return backend.create_stream(&made_stream); },
            [&] { return backend.destroy_stream(gone_stream); },
            [&] { return backend.register_host(pages.data(), bytes); },
            [&] { return backend.unregister_host(pinned.data()); },
            [&] { return backend.allocate_host(bytes, &made_memory); },
            [&] { return backend.free_host(gone_memory); },
            [&] { return backend.launch_host_function(stream, &Count::add, &count); },
            [&] { return backend.begin_capture(captures, CaptureMode::relaxed); }};
  }

  DeviceBackend& backend;
  const TestStream stream, captures;
  const Pages pages, pinned;
  void *made_memory = nullptr, *gone_memory = nullptr;
  StreamHandle made_stream = nullptr, gone_stream = nullptr;
  EventHandle made_event = nullptr, gone_event = nullptr;
  Count count;
};

}  // namespace

CONTRACT_CASE(
    "a stuck stream takes hundreds of operations; then a call that adds one waits, and other streams go on [7]") {
  FullQueue queue(backend);
  CHECK(queue.given() >= 500);
  for (int i = 0; i != 100; ++i) queue.round_trip();
  queue.open();
}

CONTRACT_CASE("a stuck stream takes so many launches of a graph that their nodes are hundreds, and no more [7]") {
  FullQueue queue(backend, 10);
  CHECK(queue.given() >= 50);
  CHECK(queue.given() <= 500);
  queue.round_trip();
  queue.open();
}

CONTRACT_CASE(
    "while a caller waits for room in a full queue, no thread makes or destroys streams and events, pins or unpins "
    "memory, begins a capture or launches a host function [66]") {
  Scene scene(backend);
  const auto calls = scene.calls();
  FullQueue queue(backend);
  HeldUp others(calls);
  for (int i = 0; i != 1000; ++i) std::this_thread::yield();  // those that do not wait come back
  others.open();
  queue.open();
}

CONTRACT_CASE(
    "while memory is unpinned beside running work calls of every thread wait; queries, waits and allocations go on "
    "[67]") {
  Scene scene(backend);
  const TestStream stuck(backend), idle(backend), probed(backend), busy(backend), other(backend);
  const OnDevice device(backend, bytes, idle);
  const Pinned host(backend, bytes);
  const Pages pages(bytes);
  const TestEvent done(backend), awaited(backend), recorded(backend), probe(backend);
  CONTRACT_OK(backend, register_host(pages.data(), bytes));
  CONTRACT_OK(backend, record_event(done, idle));
  CONTRACT_OK(backend, record_event(awaited, idle));
  CONTRACT_OK(backend, begin_capture(idle, CaptureMode::relaxed));
  CONTRACT_OK(backend, copy(device.data(), host.data(), 8, CopyKind::host_to_device, idle));
  const TestGraph graph(backend, end_capture(backend, idle));
  idle.synchronize();
  void* allocated = nullptr;
  auto calls = scene.calls();
  calls.emplace_back([&] { return backend.copy(device.data(), host.data(), 8, CopyKind::host_to_device, idle); });
  calls.emplace_back([&] { return backend.record_event(recorded, idle); });
  // On a stream and of an event of their own: what is asked below may not wait for a lock that these hold.
  calls.emplace_back([&] { return backend.launch_graph(graph, busy); });
  Gate gate(backend, stuck);
  std::atomic<bool> opened{false};
  std::atomic<int> probes{0};
  std::thread prober([&] {
    while (!opened) {
      CHECK(backend.record_event(probe, probed).ok());
      ++probes;
      std::this_thread::yield();
    }
  });
  while (probes == 0) std::this_thread::yield();
  std::thread unpinner([&] {
    CHECK(backend.unregister_host(pages.data()).ok());
    CHECK(opened);
  });
  const auto query = [&] {
    CONTRACT_CODE(backend, query_event(done), ok);
    CONTRACT_CODE(backend, synchronize_event(done), ok);
  };
  until_held_up(backend, 2, probes, 1'000'000, query);
  {
    HeldUp others(calls);
    for (int i = 0; i != 1000; ++i) query();
    CONTRACT_OK(backend, synchronize_stream(idle));
    CONTRACT_OK(backend, wait_event(other, awaited));
    CONTRACT_OK(backend, allocate_device(bytes, other, &allocated));
    others.open();
    opened = true;
    gate.open();
  }
  unpinner.join();
  prober.join();
  CONTRACT_OK(backend, free_device(allocated, other));
  other.synchronize();
  busy.synchronize();
  idle.synchronize();
  stuck.synchronize();
}
