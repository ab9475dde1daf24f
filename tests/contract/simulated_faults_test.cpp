// What CUDA cannot be asked: limits, calls that fail when told to, illegal accesses, a loss that the process outlives.

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <thread>
#include <vector>

#include "backend/simulated/backend.hpp"
#include "contract.hpp"

using namespace contract;
using thole::SimulatedCall;
using thole::SimulationOptions;
using thole::detail::SimulatedBackend;

namespace {

constexpr std::size_t bytes = 64 * Pages::page;

SimulationOptions stepped() {
  SimulationOptions options;
  options.stepped = true;
  return options;
}

bool lost(SimulatedBackend& backend) {
  StreamHandle stream = nullptr;
  const Status status = backend.create_stream(&stream);
  if (status.ok()) static_cast<void>(backend.destroy_stream(stream));
  return status.code == StatusCode::device_lost;
}

}  // namespace

TEST_CASE("device memory has a capacity, and freed memory counts once its free has run") {
  SimulationOptions options = stepped();
  options.device_bytes = 1000;
  SimulatedBackend backend(options);
  const TestStream stream(backend);
  const TestStream other(backend);
  void* first = nullptr;
  void* second = nullptr;
  CONTRACT_OK(backend, allocate_device(600, stream, &first));
  CONTRACT_CODE(backend, allocate_device(600, stream, &second), out_of_memory);
  CONTRACT_CODE(backend, allocate_device(0, stream, &second), invalid);
  CONTRACT_OK(backend, free_device(first, stream));
  CONTRACT_CODE(backend, allocate_device(600, other, &second), out_of_memory);
  CONTRACT_OK(backend, allocate_device(600, stream, &second));  // in the stream of the free it comes after that
  CHECK(second != first);
  CHECK(backend.run_all() == 3);
  CHECK(backend.device_bytes() == 600);
  CONTRACT_CODE(backend, free_device(first, stream), invalid);
  CONTRACT_OK(backend, free_device(second, other));
  CONTRACT_CODE(backend, free_device(second, other), invalid);
  backend.run_all();
  CHECK(backend.device_bytes() == 0);
}

TEST_CASE("pinned memory has a limit") {
  SimulationOptions options = stepped();
  options.max_pinned_bytes = 2 * Pages::page;
  SimulatedBackend backend(options);
  const Pages pages(2 * Pages::page);
  void* data = nullptr;
  CONTRACT_OK(backend, register_host(pages.data(), Pages::page));
  CHECK(backend.pinned_bytes() == Pages::page);
  CONTRACT_CODE(backend, allocate_host(Pages::page + 1, &data), out_of_memory);
  CONTRACT_OK(backend, allocate_host(Pages::page, &data));
  CONTRACT_CODE(backend, register_host(pages.data() + Pages::page, Pages::page), out_of_memory);
  CONTRACT_OK(backend, free_host(data));
  CONTRACT_OK(backend, unregister_host(pages.data()));
  CHECK(backend.pinned_bytes() == 0);
}

TEST_CASE("each kind of call can be made to fail, the nth from now and no other") {
  SimulatedBackend backend(stepped());
  const Pinned host(backend, bytes);
  const Pages pages(Pages::page);
  const TestStream stream(backend);
  const OnDevice device(backend, bytes, stream);
  const TestEvent event(backend);
  Count count;
  void* data = nullptr;
  StreamHandle made_stream = nullptr;
  EventHandle made_event = nullptr;
  struct Kind {
    SimulatedCall call;
    StatusCode code;
    std::function<Status()> make;
    std::function<void()> undo;
  };
  const auto nothing = [] {};
  const std::vector<Kind> kinds{
      {SimulatedCall::register_host, StatusCode::out_of_memory,
       [&] { return backend.register_host(pages.data(), Pages::page); },
       [&] { CONTRACT_OK(backend, unregister_host(pages.data())); }},
      {SimulatedCall::allocate_host, StatusCode::out_of_memory,
       [&] { return backend.allocate_host(Pages::page, &data); }, [&] { CONTRACT_OK(backend, free_host(data)); }},
      {SimulatedCall::allocate_device, StatusCode::out_of_memory,
       [&] { return backend.allocate_device(bytes, stream, &data); },
       [&] { CONTRACT_OK(backend, free_device(data, stream)); }},
      {SimulatedCall::create_stream, StatusCode::failed, [&] { return backend.create_stream(&made_stream); },
       [&] { CONTRACT_OK(backend, destroy_stream(made_stream)); }},
      {SimulatedCall::create_event, StatusCode::failed, [&] { return backend.create_event(&made_event); },
       [&] { CONTRACT_OK(backend, destroy_event(made_event)); }},
      {SimulatedCall::record_event, StatusCode::failed, [&] { return backend.record_event(event, stream); }, nothing},
      {SimulatedCall::query_event, StatusCode::failed,
       [&] {
         backend.run_all();
         return backend.query_event(event);
       },
       nothing},
      {SimulatedCall::wait_event, StatusCode::failed, [&] { return backend.wait_event(stream, event); }, nothing},
      {SimulatedCall::copy, StatusCode::failed,
       [&] { return backend.copy(device.data(), host.data(), bytes, CopyKind::host_to_device, stream); }, nothing},
      {SimulatedCall::host_function, StatusCode::failed,
       [&] { return backend.launch_host_function(stream, &Count::add, &count); }, nothing},
  };
  for (const Kind& kind : kinds) {
    CAPTURE(static_cast<int>(kind.call));
    const std::size_t before = backend.calls(kind.call);
    backend.fail_call(kind.call, 2);
    const auto expect = [&](StatusCode code) {
      CHECK(kind.make().code == code);
      if (code == StatusCode::ok) kind.undo();
    };
    expect(StatusCode::ok);
    expect(kind.code);
    expect(StatusCode::ok);
    CHECK(backend.calls(kind.call) == before + 3);
    backend.fail_call(kind.call, 1);
    backend.fail_call(kind.call, 0);
    expect(StatusCode::ok);
  }
  backend.run_all();
}

TEST_CASE("a retain that is made to fail takes nothing over") {
  SimulatedBackend backend(stepped());
  const TestStream stream(backend);
  Count released;
  CONTRACT_OK(backend, begin_capture(stream, CaptureMode::global));
  backend.fail_call(SimulatedCall::retain_in_graph, 1);
  CONTRACT_CODE(backend, retain_in_graph(stream.capture().graph, &released, &Count::add), failed);
  CONTRACT_OK(backend, destroy_graph(end_capture(backend, stream)));
  CHECK(released.value() == 0);
}

TEST_CASE("device memory is poisoned when it is freed") {
  SimulatedBackend backend(stepped());
  const TestStream stream(backend);
  void* data = nullptr;
  void* again = nullptr;
  CONTRACT_OK(backend, allocate_device(bytes, stream, &data));
  CONTRACT_OK(backend, free_device(data, stream));
  backend.run_all();
  CONTRACT_OK(backend, allocate_device(bytes, stream, &again));
  CHECK(*static_cast<unsigned char*>(backend.view_of(again)) == 0xdb);
  CONTRACT_OK(backend, free_device(again, stream));
  backend.run_all();
}

TEST_CASE("a copy outside the device's allocations is refused") {
  SimulatedBackend backend(stepped());
  const Pinned host(backend, bytes);
  const TestStream stream(backend);
  void* device = nullptr;
  CONTRACT_OK(backend, allocate_device(100, stream, &device));
  auto* inside = static_cast<unsigned char*>(device);
  CONTRACT_CODE(backend, copy(inside + 1, host.data(), 100, CopyKind::host_to_device, stream), invalid);
  CONTRACT_CODE(backend, copy(host.data(), host.data(), 8, CopyKind::host_to_device, stream), invalid);
  CONTRACT_CODE(backend, copy(host.data(), inside, 8, CopyKind::host_to_host, stream), invalid);
  CONTRACT_CODE(backend, copy(nullptr, host.data(), 8, CopyKind::host_to_device, stream), invalid);
  CONTRACT_OK(backend, free_device(device, stream));
  CONTRACT_CODE(backend, copy(device, host.data(), 8, CopyKind::host_to_device, stream), invalid);
  backend.run_all();
  CHECK(!lost(backend));
}

TEST_CASE("a copy that runs after its memory was unpinned, or before it was allocated, loses the device") {
  for (const bool unpinned : {true, false}) {
    CAPTURE(unpinned);
    SimulatedBackend backend(stepped());
    const Pages pages(Pages::page);
    const TestStream stream(backend);
    const TestStream other(backend);
    void* device = nullptr;
    CONTRACT_OK(backend, register_host(pages.data(), Pages::page));
    CONTRACT_OK(backend, allocate_device(Pages::page, stream, &device));
    if (unpinned) {
      CONTRACT_OK(backend, copy(device, pages.data(), Pages::page, CopyKind::host_to_device, stream));
      CONTRACT_OK(backend, unregister_host(pages.data()));
    } else {
      CONTRACT_OK(backend, copy(device, pages.data(), Pages::page, CopyKind::host_to_device, other));
      CHECK(backend.step(other, 1) == 0);
    }
    backend.run_all();
    CHECK(lost(backend));
    const Status status = backend.free_device(device, stream);
    CHECK(status.code == StatusCode::device_lost);
    CHECK(backend.describe(status).find("illegal access") != std::string::npos);
  }
}

TEST_CASE("on a device that runs by itself unpinning waits for the work that is running") {
  SimulatedBackend backend({.loss_is_final = false});
  const Pages pages(Pages::page);
  const TestStream stream(backend);
  const OnDevice device(backend, Pages::page, stream);
  CONTRACT_OK(backend, register_host(pages.data(), Pages::page));
  backend.hold(stream);
  CONTRACT_OK(backend, copy(device.data(), pages.data(), Pages::page, CopyKind::host_to_device, stream));
  Status status;
  std::thread other([&] { status = backend.unregister_host(pages.data()); });
  while (backend.blocked_callers() != 1) std::this_thread::yield();
  backend.release(stream);
  other.join();
  CHECK(status.ok());
  CHECK(!lost(backend));
}

TEST_CASE("while memory is unpinned beside a held stream, calls wait on every thread; queries and waits go on") {
  SimulatedBackend backend({.loss_is_final = false});
  const Pages pages(Pages::page);  // which no operation uses
  CONTRACT_OK(backend, register_host(pages.data(), Pages::page));
  const TestStream stuck(backend);
  const TestStream other(backend);
  const TestEvent event(backend);
  const OnDevice device(backend, Pages::page, other);
  const Pinned host(backend, Pages::page);
  Count count;
  CONTRACT_OK(backend, record_event(event, other));
  other.synchronize();
  backend.hold(stuck);
  CONTRACT_OK(backend, launch_host_function(stuck, &Count::add, &count));
  std::atomic<std::size_t> returned{0};
  std::vector<std::thread> threads;
  const auto begin = [&](auto call) {
    threads.emplace_back([&returned, call] {
      CHECK(call().ok());
      ++returned;
    });
    while (backend.blocked_callers() != threads.size()) std::this_thread::yield();
  };
  begin([&] { return backend.unregister_host(pages.data()); });
  EventHandle made_event = nullptr;
  StreamHandle made_stream = nullptr;
  void* allocated = nullptr;
  const Pages more(Pages::page);
  begin([&] { return backend.copy(device.data(), host.data(), Pages::page, CopyKind::host_to_device, other); });
  begin([&] { return backend.record_event(event, other); });
  begin([&] { return backend.create_event(&made_event); });
  begin([&] { return backend.create_stream(&made_stream); });
  begin([&] { return backend.register_host(more.data(), Pages::page); });
  begin([&] { return backend.allocate_host(Pages::page, &allocated); });
  CONTRACT_OK(backend, query_event(event));
  CONTRACT_OK(backend, synchronize_event(event));
  CONTRACT_OK(backend, synchronize_stream(other));
  CHECK(!other.capture().graph);
  CHECK(returned == 0);
  backend.release(stuck);
  for (std::thread& thread : threads) thread.join();
  CHECK(returned == threads.size());
  CONTRACT_OK(backend, destroy_event(made_event));
  CONTRACT_OK(backend, destroy_stream(made_stream));
  CONTRACT_OK(backend, unregister_host(more.data()));
  CONTRACT_OK(backend, free_host(allocated));
}

TEST_CASE("a lost device completes nothing, lets blocked callers go, and lets go of what is destroyed [6]") {
  SimulatedBackend backend(stepped());
  const Pages pages(Pages::page);
  CONTRACT_OK(backend, register_host(pages.data(), Pages::page));
  StreamHandle stream = nullptr;
  EventHandle event = nullptr;
  CONTRACT_OK(backend, create_stream(&stream));
  CONTRACT_OK(backend, create_event(&event));
  CONTRACT_OK(backend, begin_capture(stream, CaptureMode::relaxed));
  const GraphHandle graph = end_capture(backend, stream);
  GraphExecHandle exec = nullptr;
  CONTRACT_OK(backend, instantiate_graph(graph, &exec));
  Count count;
  CONTRACT_OK(backend, launch_host_function(stream, &Count::add, &count));
  CONTRACT_OK(backend, record_event(event, stream));
  Status on_stream, on_event;
  std::thread first([&] { on_stream = backend.synchronize_stream(stream); });
  std::thread second([&] { on_event = backend.synchronize_event(event); });
  while (backend.blocked_callers() != 2) std::this_thread::yield();
  backend.lose_device();
  first.join();
  second.join();
  CHECK((on_stream.code == StatusCode::device_lost && on_event.code == StatusCode::device_lost));
  CHECK(backend.run_all() == 0);
  CHECK(backend.step(stream, 1) == 0);
  CHECK(backend.pending(stream) == 2);
  CHECK(count.value() == 0);
  CONTRACT_CODE(backend, query_event(event), device_lost);
  CONTRACT_CODE(backend, record_event(event, stream), device_lost);
  CONTRACT_CODE(backend, launch_host_function(stream, &Count::add, &count), device_lost);
  CHECK(backend.exchange_capture_mode(CaptureMode::relaxed) == CaptureMode::global);
  CHECK(backend.exchange_capture_mode(CaptureMode::global) == CaptureMode::relaxed);
  CONTRACT_CODE(backend, unregister_host(pages.data()), device_lost);
  CHECK(backend.live_events() == 1);
  CONTRACT_OK(backend, destroy_graph_exec(exec));
  CONTRACT_OK(backend, destroy_graph(graph));
  CONTRACT_CODE(backend, destroy_event(event), device_lost);
  CONTRACT_CODE(backend, destroy_stream(stream), device_lost);
  CHECK(backend.live_events() == 0);
  SimulatedBackend next(stepped());  // the memory can be pinned again, for a device that works
  CONTRACT_OK(next, register_host(pages.data(), Pages::page));
  CONTRACT_OK(next, unregister_host(pages.data()));
}

TEST_CASE(
    "a loss is every device's of the process, also of those that are made later, where no option says otherwise") {
  const auto final_in_a_child = [](const SimulationOptions& options) {
    const pid_t child = fork();  // this process goes on
    if (child == 0) {
      SimulatedBackend other(stepped());
      SimulatedBackend backend(options);
      const bool worked = !lost(other) && !lost(backend);
      backend.lose_device();
      SimulatedBackend later(stepped());
      _exit(worked && lost(backend) ? lost(other) + lost(later) : 3);
    }
    int state = 0;
    REQUIRE(waitpid(child, &state, 0) == child);
    return state;
  };
  SimulationOptions options;
  CHECK(final_in_a_child(options) == 2 << 8);
  options.loss_is_final = false;
  CHECK(final_in_a_child(options) == 0);
  options = stepped();  // a test that steps goes on with other devices
  CHECK(final_in_a_child(options) == 0);
  options.loss_is_final = true;
  CHECK(final_in_a_child(options) == 2 << 8);
}

TEST_CASE("losing a device ends its captures and lets go of what launched graphs retained") {
  SimulatedBackend backend(stepped());
  StreamHandle stream = nullptr;
  CONTRACT_OK(backend, create_stream(&stream));
  Count ran;
  Count released;
  CONTRACT_OK(backend, begin_capture(stream, CaptureMode::global));
  CONTRACT_OK(backend, launch_host_function(stream, &Count::add, &ran));
  CaptureInfo info;
  CONTRACT_OK(backend, capture_info(stream, &info));
  CONTRACT_OK(backend, retain_in_graph(info.graph, &released, &Count::add));
  {
    const TestGraph graph(backend, end_capture(backend, stream));
    graph.launch(stream);
  }
  CONTRACT_OK(backend, begin_capture(stream, CaptureMode::global));
  CHECK(released.value() == 0);
  backend.lose_device();
  CHECK(released.value() == 1);
  SimulatedBackend next(stepped());
  const TestEvent event(next);
  CONTRACT_OK(next, query_event(event));
  CONTRACT_CODE(backend, destroy_stream(stream), device_lost);
  CHECK(ran.value() == 0);
}

TEST_CASE("a stream that waits for a lost device's event does not wait for ever") {
  SimulatedBackend backend({.loss_is_final = false});
  SimulatedBackend other({.loss_is_final = false});
  StreamHandle stream = nullptr;
  StreamHandle other_stream = nullptr;
  EventHandle event = nullptr;
  CONTRACT_OK(backend, create_stream(&stream));
  CONTRACT_OK(backend, create_event(&event));
  CONTRACT_OK(other, create_stream(&other_stream));
  backend.hold(stream);
  CONTRACT_OK(backend, record_event(event, stream));
  CONTRACT_OK(other, wait_event(other_stream, event));
  backend.lose_device();
  CONTRACT_CODE(other, synchronize_stream(other_stream), device_lost);
  CONTRACT_CODE(backend, destroy_event(event), device_lost);
  CONTRACT_CODE(backend, destroy_stream(stream), device_lost);
  CONTRACT_CODE(other, destroy_stream(other_stream), device_lost);
}

TEST_CASE("a backend that ends finishes what runs by itself and drops what is held") {
  Count count;
  {
    SimulatedBackend backend({.loss_is_final = false});
    StreamHandle free = nullptr;
    StreamHandle held = nullptr;
    CONTRACT_OK(backend, create_stream(&free));
    CONTRACT_OK(backend, create_stream(&held));
    backend.hold(held);
    for (int i = 0; i < 100; ++i) CONTRACT_OK(backend, launch_host_function(free, &Count::add, &count));
    CONTRACT_OK(backend, launch_host_function(held, &Count::add, &count));
    CONTRACT_OK(backend, destroy_stream(free));
  }
  CHECK(count.value() == 100);
}

TEST_CASE("the last handle to a backend may be let go of in one of its own threads") {
  struct Last {
    std::shared_ptr<SimulatedBackend> backend;
    Count gone;
  };
  Last last{std::make_shared<SimulatedBackend>(SimulationOptions{}), {}};
  SimulatedBackend& backend = *last.backend;
  StreamHandle stream = nullptr;
  CONTRACT_OK(backend, create_stream(&stream));
  CONTRACT_OK(backend, begin_capture(stream, CaptureMode::relaxed));
  Count ran;
  CONTRACT_OK(backend, launch_host_function(stream, &Count::add, &ran));
  CaptureInfo info;
  CONTRACT_OK(backend, capture_info(stream, &info));
  CONTRACT_OK(backend, retain_in_graph(info.graph, &last, [](void* argument) {
                auto& mine = *static_cast<Last*>(argument);
                mine.backend.reset();
                Count::add(&mine.gone);
              }));
  backend.hold(stream);
  {
    const TestGraph graph(backend, end_capture(backend, stream));
    graph.launch(stream);
  }
  backend.release(stream);
  last.gone.wait_for(1);
  CHECK(ran.value() == 1);
}

namespace {

/// Ends with the process, with work under way and threads of its own.
struct AtExit {
  Count count;
  SimulatedBackend backend{SimulationOptions{}};
} at_exit;

}  // namespace

TEST_CASE("a backend may live until after main") {
  StreamHandle stream = nullptr;
  CONTRACT_OK(at_exit.backend, create_stream(&stream));
  for (int i = 0; i < 10; ++i) {
    CONTRACT_OK(at_exit.backend, launch_host_function(stream, &Count::add, &at_exit.count));
  }
  CONTRACT_OK(at_exit.backend, destroy_stream(stream));
}
