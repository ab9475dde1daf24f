// Branches of graphs on the simulated device: what the seed picks, what shows a forgotten join, and that they run
// beside each other where the device runs by itself. They are here for the sake of kernels that stand still in a
// branch, steps, late mode, losses and a backend that ends; what graphs promise on every device is asked in
// graph_test.cpp and graph_event_test.cpp.

#include <atomic>
#include <memory>
#include <set>
#include <string>
#include <thread>

#include "backend/simulated/backend.hpp"
#include "contract.hpp"

using namespace contract;
using thole::SimulationOptions;
using thole::detail::SimulatedBackend;

namespace {

constexpr std::size_t bytes = 64 * Pages::page;

/// A capture in global mode of two streams: `first` begins it, and forks to `second` at once.
class Fork {
 public:
  Fork(DeviceBackend& backend, StreamHandle first, StreamHandle second)
      : backend_(backend), event_(backend), first_(first), second_(second) {
    CONTRACT_OK(backend, begin_capture(first, CaptureMode::global));
    order(first, second);
  }
  /// What comes next in `after` comes behind what `before` has now.
  void order(StreamHandle before, StreamHandle after) const {
    CONTRACT_OK(backend_, record_event(event_, before));
    CONTRACT_OK(backend_, wait_event(after, event_));
  }
  GraphHandle join() const {
    order(second_, first_);
    return end_capture(backend_, first_);
  }

 private:
  DeviceBackend& backend_;
  const TestEvent event_;
  StreamHandle first_, second_;
};

/// A kernel that says when it runs, and stands still until it is opened.
struct Standing {
  std::atomic<bool> runs{false}, opened{false};

  static void run(void* standing, void* const*) {
    auto& mine = *static_cast<Standing*>(standing);
    mine.runs = true;
    mine.runs.notify_all();
    mine.opened.wait(false);
  }
  void open() {
    opened = true;
    opened.notify_all();
  }
};

void launch_standing(SimulatedBackend& backend, StreamHandle stream, Standing& standing) {
  CONTRACT_OK(backend, launch_kernel(stream, nullptr, 0, &Standing::run, {std::shared_ptr<void>(), &standing}));
}

}  // namespace

TEST_CASE("a forgotten join between branches of a graph shows in most launches of a stepped device, a join in none") {
  for (const bool joined : {true, false}) {
    CAPTURE(joined);
    SimulatedBackend backend({.stepped = true});
    const TestStream first(backend), second(backend);
    const OnDevice device(backend, bytes, first);
    const Pinned source(backend, bytes), back(backend, bytes);
    const Fork fork(backend, first, second);
    CONTRACT_OK(backend, copy(device.data(), source.data(), bytes, CopyKind::host_to_device, first));
    if (joined) fork.order(first, second);
    CONTRACT_OK(backend, copy(back.data(), device.data(), bytes, CopyKind::device_to_host, second));
    const TestGraph graph(backend, fork.join());
    int wrong = 0;
    for (unsigned char round = 1; round <= 50; ++round) {
      source.fill(round);
      graph.launch(first);
      backend.run_all();
      if (!back.holds(round)) ++wrong;
    }
    if (joined) {
      CHECK(wrong == 0);
    } else {
      CHECK(wrong >= 40);
    }
  }
}

TEST_CASE("the seed picks the order of a graph's branches, and in some launch each order comes") {
  struct Note {
    std::string* log;
    char letter;
  };
  const auto write = [](void* argument) {
    const auto& note = *static_cast<Note*>(argument);
    note.log->push_back(note.letter);
  };
  SimulatedBackend backend({.stepped = true});
  std::string log;
  Note a{&log, 'a'}, b{&log, 'b'}, x{&log, 'x'};
  const TestStream first(backend), second(backend);
  const Fork fork(backend, first, second);
  CONTRACT_OK(backend, launch_host_function(second, write, &x));
  CONTRACT_OK(backend, launch_host_function(first, write, &a));
  CONTRACT_OK(backend, launch_host_function(first, write, &b));
  const TestGraph graph(backend, fork.join());
  std::set<std::string> orders;
  for (int round = 0; round < 50; ++round) {
    log.clear();
    graph.launch(first);
    CHECK(backend.step(first, 3) == 3);  // whoever steps the stream steps all of the launch
    orders.insert(log);
  }
  CHECK(orders == std::set<std::string>{"xab", "axb", "abx"});
}

TEST_CASE("a kernel that stands still in a branch holds none of the others, which may be many") {
  SimulatedBackend backend({});
  const TestStream first(backend), second(backend);
  const TestEvent event(backend);
  Standing one, two;
  const TestStream third(backend);
  const Fork fork(backend, first, second);
  launch_standing(backend, first, one);
  launch_standing(backend, second, two);
  fork.order(second, third);  // behind the standing kernel
  CONTRACT_OK(backend, record_event_in_graph(event, third));
  fork.order(third, first);
  const TestGraph graph(backend, fork.join());
  graph.launch(first);
  one.runs.wait(false);
  two.runs.wait(false);
  CONTRACT_CODE(backend, query_event(event), not_ready);
  two.open();
  CONTRACT_OK(backend, synchronize_event(event));
  CHECK(backend.pending(first) != 0);
  one.open();
  first.synchronize();
  CHECK(backend.pending() == 0);
}

TEST_CASE("two launches of an executable with branches do not run beside each other, in whatever streams") {
  SimulatedBackend backend({});
  const TestStream first(backend), second(backend);
  Count count;
  Standing standing;
  const Fork fork(backend, first, second);
  launch_standing(backend, first, standing);
  CONTRACT_OK(backend, launch_host_function(second, &Count::add, &count));
  const TestGraph graph(backend, fork.join());
  graph.launch(first);
  count.wait_for(1);
  graph.launch(second);
  const TestEvent event(backend);
  CONTRACT_OK(backend, record_event(event, second));
  CHECK(backend.pending(second) != 0);
  CHECK(count.value() == 1);
  standing.open();
  CONTRACT_OK(backend, synchronize_event(event));
  CHECK(count.value() == 2);
}

TEST_CASE("in late mode whoever waits for a launch gets all of its branches, and whoever asks for an event its own") {
  SimulatedBackend backend({.late = std::chrono::hours(24 * 365)});
  const TestStream first(backend), second(backend);
  const TestEvent event(backend);
  const OnDevice device(backend, bytes, first);
  const Pinned source(backend, bytes), back(backend, bytes);
  Count others;
  const Fork fork(backend, first, second);
  CONTRACT_OK(backend, launch_host_function(first, &Count::add, &others));
  CONTRACT_OK(backend, copy(device.data(), source.data(), bytes, CopyKind::host_to_device, second));
  CONTRACT_OK(backend, copy(back.data(), device.data(), bytes, CopyKind::device_to_host, second));
  CONTRACT_OK(backend, record_event_in_graph(event, second));
  const TestGraph graph(backend, fork.join());
  source.fill(1);
  graph.launch(first);
  source.fill(2);  // the mistake that a fast device hides
  CONTRACT_OK(backend, synchronize_event(event));
  CHECK(back.holds(2));
  CHECK(others.value() == 0);
  first.synchronize();
  CHECK(others.value() == 1);
  graph.launch(first);
  source.fill(3);
  first.synchronize();
  CHECK(back.holds(3));
}

TEST_CASE("a device that is lost in the middle of a launch leaves no branch and nobody behind") {
  Standing standing;
  Count ran, released;
  {
    SimulatedBackend backend({.loss_is_final = false});
    StreamHandle first = nullptr, second = nullptr;
    CONTRACT_OK(backend, create_stream(&first));
    CONTRACT_OK(backend, create_stream(&second));
    EventHandle event = nullptr;
    CONTRACT_OK(backend, create_event(&event));
    CONTRACT_OK(backend, begin_capture(first, CaptureMode::relaxed));
    CaptureInfo info;
    CONTRACT_OK(backend, capture_info(first, &info));
    CONTRACT_OK(backend, retain_in_graph(info.graph, &released, &Count::add));
    CONTRACT_OK(backend, record_event(event, first));
    CONTRACT_OK(backend, wait_event(second, event));
    launch_standing(backend, second, standing);
    CONTRACT_OK(backend, launch_host_function(second, &Count::add, &ran));
    CONTRACT_OK(backend, record_event(event, second));
    CONTRACT_OK(backend, wait_event(first, event));
    CONTRACT_OK(backend, launch_host_function(first, &Count::add, &ran));
    {
      const TestGraph graph(backend, end_capture(backend, first));
      graph.launch(first);
    }
    standing.runs.wait(false);
    Status status;
    std::thread waiting([&] { status = backend.synchronize_stream(first); });
    while (backend.blocked_callers() != 1) std::this_thread::yield();
    std::thread loses([&] { backend.lose_device(); });  // it waits for the kernel, which may touch memory
    waiting.join();
    CHECK(status.code == StatusCode::device_lost);
    CHECK(released.value() == 0);  // the kernel's branch is still there
    standing.open();
    loses.join();
    released.wait_for(1);
    CONTRACT_CODE(backend, destroy_event(event), device_lost);
  }
  CHECK(ran.value() == 0);
}

TEST_CASE("a backend that ends finishes the branches of what was launched, also in streams that are destroyed") {
  Count count;
  {
    SimulatedBackend backend({});
    TestStream first(backend), second(backend);
    const Fork fork(backend, first, second);
    for (int i = 0; i != 10; ++i) {
      CONTRACT_OK(backend, launch_host_function(first, &Count::add, &count));
      CONTRACT_OK(backend, launch_host_function(second, &Count::add, &count));
    }
    const TestGraph graph(backend, fork.join());
    graph.launch(first);
    first.destroy();
    graph.launch(second);
    second.destroy();
  }
  CHECK(count.value() == 40);
}

TEST_CASE(
    "each node of a launch takes a place of a stream's queue, until it begins, and the order that it needs takes "
    "none") {
  SimulatedBackend backend({.stepped = true, .queue_limit = 4});
  const TestStream stream(backend);
  Count count;
  CONTRACT_OK(backend, begin_capture(stream, CaptureMode::relaxed));
  for (int i = 0; i != 3; ++i) CONTRACT_OK(backend, launch_host_function(stream, &Count::add, &count));
  const TestGraph graph(backend, end_capture(backend, stream));
  graph.launch(stream);
  graph.launch(stream);  // behind the first one
  CHECK(backend.pending(stream) == 7);
  CHECK(backend.step(stream, 2) == 2);
  std::thread caller([&] { graph.launch(stream); });
  while (backend.blocked_callers() != 1) std::this_thread::yield();
  CHECK(backend.step(stream, 1) == 1);
  caller.join();
  CHECK(backend.run_all() == 8);
  CHECK(count.value() == 9);
}
