// Stream capture: what joins it, and what breaks it.

#include <chrono>
#include <optional>
#include <thread>

#include "backend/capture_guard.hpp"
#include "contract.hpp"

using namespace contract;

namespace {

constexpr std::size_t bytes = std::size_t{1} << 16;

/// Begins a capture on a stream of its own and ends it when asked, or at the end.
class Capturing {
 public:
  Capturing(DeviceBackend& backend, CaptureMode mode) : stream(backend), backend_(backend) {
    CONTRACT_OK(backend_, begin_capture(stream, mode));
  }
  ~Capturing() {
    if (!ended_) static_cast<void>(end());
  }
  Capturing(const Capturing&) = delete;
  Capturing& operator=(const Capturing&) = delete;

  /// Whether the capture ended well.
  bool end() {
    ended_ = true;
    GraphHandle graph = nullptr;
    const Status status = backend_.end_capture(stream, &graph);
    if (!status.ok()) {
      CHECK(status.code == StatusCode::capture);
      CHECK(graph == nullptr);
      return false;
    }
    CHECK(backend_.destroy_graph(graph).ok());
    return true;
  }

  const TestStream stream;

 private:
  DeviceBackend& backend_;
  bool ended_ = false;
};

/// Calls `f` on another thread and gives what it returned.
template <class F>
Status elsewhere(F f) {
  Status status;
  std::thread([&] { status = f(); }).join();
  return status;
}

}  // namespace

CONTRACT_CASE("capture_info tells whether a stream captures and never disturbs it [29]") {
  const TestStream stream(backend);
  CHECK(stream.capture().state == CaptureInfo::State::none);
  CONTRACT_OK(backend, begin_capture(stream, CaptureMode::global));
  const CaptureInfo info = stream.capture();
  CHECK(info.state == CaptureInfo::State::active);
  CHECK(info.id != 0);
  CHECK(info.graph != nullptr);
  CHECK(stream.capture().id == info.id);
  CONTRACT_OK(backend, destroy_graph(end_capture(backend, stream)));
  CHECK(stream.capture().state == CaptureInfo::State::none);
  CONTRACT_OK(backend, begin_capture(stream, CaptureMode::global));
  CHECK(stream.capture().id != info.id);
  CONTRACT_OK(backend, destroy_graph(end_capture(backend, stream)));
}

CONTRACT_CASE("a call that is unsafe in capture fails and invalidates the thread's own capture [4]") {
  const Pages pages(Pages::page);
  const TestEvent event(backend);
  const TestStream beside(backend);
  const OnDevice device(backend, Pages::page, beside);
  void* data = nullptr;
  for (const CaptureMode mode : {CaptureMode::global, CaptureMode::thread_local_}) {
    for (int which = 0; which < 7; ++which) {
      CAPTURE(which);
      Capturing capturing(backend, mode);
      if (which == 0) CONTRACT_CODE(backend, query_event(event), capture);
      if (which == 1) CONTRACT_CODE(backend, register_host(pages.data(), Pages::page), capture);
      if (which == 2) CONTRACT_CODE(backend, allocate_host(Pages::page, &data), capture);
      if (which == 3) CONTRACT_CODE(backend, synchronize_event(event), capture);
      if (which == 4) CONTRACT_CODE(backend, synchronize_stream(beside), capture);
      if (which == 5) CONTRACT_CODE(backend, allocate_device(Pages::page, beside, &data), capture);
      if (which == 6) CONTRACT_CODE(backend, free_device(device.data(), beside), capture);
      CHECK(capturing.stream.capture().state == CaptureInfo::State::invalidated);
      CHECK(!capturing.end());
    }
  }
  CHECK(data == nullptr);
}

// CUDA does not say which of the two it does; the simulated device takes the worse one.
CONTRACT_CASE(
    "memory that is let go during a capture is gone and the capture unharmed, or there and the capture is not "
    "[4]") {
  const Pages pages(Pages::page);
  for (const CaptureMode mode : {CaptureMode::global, CaptureMode::thread_local_}) {
    for (const bool registered : {true, false}) {
      CAPTURE(registered);
      void* data = pages.data();
      if (registered) {
        CONTRACT_OK(backend, register_host(data, Pages::page));
      } else {
        CONTRACT_OK(backend, allocate_host(Pages::page, &data));
      }
      const auto let_go = [&] { return registered ? backend.unregister_host(data) : backend.free_host(data); };
      Capturing capturing(backend, mode);
      const Status status = let_go();
      if (!status.ok() || backend.simulated()) CHECK(status.code == StatusCode::capture);
      CHECK(capturing.end() == status.ok());
      if (!status.ok()) CHECK(let_go().ok());
    }
  }
}

CONTRACT_CASE("an unsafe call breaks another thread's capture in global mode only [3]") {
  const TestEvent event(backend);
  const auto query = [&] { return backend.query_event(event); };
  {
    Capturing capturing(backend, CaptureMode::global);
    CHECK(elsewhere(query).code == StatusCode::capture);
    CHECK(!capturing.end());
  }
  {
    Capturing capturing(backend, CaptureMode::thread_local_);
    CHECK(elsewhere(query).code == StatusCode::ok);
    CHECK(capturing.end());
  }
}

CONTRACT_CASE("a capture in relaxed mode forbids nothing, to its thread or another") {
  const TestEvent event(backend);
  const auto query = [&] { return backend.query_event(event); };
  Capturing capturing(backend, CaptureMode::relaxed);
  CHECK(query().code == StatusCode::ok);
  CHECK(elsewhere(query).code == StatusCode::ok);
  CHECK(capturing.end());
}

CONTRACT_CASE("a thread in relaxed mode may make every unsafe call, and no capture breaks [5]") {
  const Pages pages(Pages::page);
  const TestEvent event(backend);
  const TestStream beside(backend);
  const auto calls = [&] {
    const CaptureMode before = backend.exchange_capture_mode(CaptureMode::relaxed);
    void* data = nullptr;
    Status status = backend.query_event(event);
    if (status.ok()) status = backend.synchronize_event(event);
    if (status.ok()) status = backend.register_host(pages.data(), Pages::page);
    if (status.ok()) status = backend.unregister_host(pages.data());
    if (status.ok()) status = backend.allocate_host(Pages::page, &data);
    if (status.ok()) status = backend.free_host(data);
    if (status.ok()) status = backend.allocate_device(Pages::page, beside, &data);
    if (status.ok()) status = backend.free_device(data, beside);
    if (status.ok()) status = backend.synchronize_stream(beside);
    backend.exchange_capture_mode(before);
    return status;
  };
  for (const CaptureMode mode : {CaptureMode::global, CaptureMode::thread_local_}) {
    Capturing capturing(backend, mode);
    CHECK(calls().code == StatusCode::ok);
    CHECK(elsewhere(calls).code == StatusCode::ok);
    CHECK(capturing.end());
  }
}

CONTRACT_CASE("exchanging the capture mode gives the one before, thread by thread [45]") {
  CHECK(backend.exchange_capture_mode(CaptureMode::relaxed) == CaptureMode::global);
  CHECK(backend.exchange_capture_mode(CaptureMode::thread_local_) == CaptureMode::relaxed);
  CaptureMode other = CaptureMode::relaxed;
  std::thread([&] { other = backend.exchange_capture_mode(CaptureMode::global); }).join();
  CHECK(other == CaptureMode::global);
  CHECK(backend.exchange_capture_mode(CaptureMode::global) == CaptureMode::thread_local_);
}

CONTRACT_CASE("ordinary work on other streams goes on beside a capture and does not break it [69]") {
  const Pinned host(backend, bytes);
  const TestStream first(backend);
  const OnDevice device(backend, bytes, first);
  CONTRACT_OK(backend, synchronize_stream(first));
  Count launched;
  CONTRACT_OK(backend, begin_capture(first, CaptureMode::relaxed));
  CONTRACT_OK(backend, launch_host_function(first, &Count::add, &launched));
  const TestGraph graph(backend, end_capture(backend, first));
  EventHandle from = nullptr, to = nullptr;
  CONTRACT_OK(backend, create_event(&from, {.timing = true}));
  CONTRACT_OK(backend, create_event(&to, {.timing = true}));
  CONTRACT_OK(backend, record_event(from, first));
  CONTRACT_OK(backend, record_event(to, first));
  CONTRACT_OK(backend, synchronize_stream(first));
  Capturing capturing(backend, CaptureMode::global);
  std::chrono::nanoseconds time{-1};
  CONTRACT_OK(backend, elapsed(from, to, &time));
  CHECK(time.count() >= 0);
  CONTRACT_OK(backend, destroy_event(from));
  CONTRACT_OK(backend, destroy_event(to));
  {
    const TestStream stream(backend);
    const TestStream second(backend);
    const TestEvent event(backend);
    Count count;
    std::uint64_t id = 0;
    int priority = 0;
    const void* address = nullptr;
    CONTRACT_OK(backend, stream_id(stream, &id));
    CONTRACT_OK(backend, stream_priority(stream, &priority));
    CONTRACT_OK(backend, check_stream(stream));
    CONTRACT_OK(backend, device_address(host.data(), &address));
    graph.launch(second);
    launched.wait_for(1);
    CONTRACT_OK(backend, copy(device.data(), host.data(), bytes, CopyKind::host_to_device, stream));
    CONTRACT_OK(backend, launch_host_function(stream, &Count::add, &count));
    CONTRACT_OK(backend, record_event(event, stream));
    CONTRACT_OK(backend, wait_event(second, event));
    CHECK(stream.capture().state == CaptureInfo::State::none);
    count.wait_for(1);
  }
  CHECK(capturing.end());
}

CONTRACT_CASE("synchronising a capturing stream fails and invalidates its capture, in every mode [26]") {
  for (const CaptureMode mode : {CaptureMode::global, CaptureMode::thread_local_, CaptureMode::relaxed}) {
    Capturing capturing(backend, mode);
    CONTRACT_CODE(backend, synchronize_stream(capturing.stream), capture);
    CHECK(!capturing.end());
  }
}

CONTRACT_CASE("an event behind all of the device invalidates each capture on it, whatever the mode of who asks [56]") {
  const TestStream idle(backend);
  const TestEvent event(backend);
  CONTRACT_OK(backend, record_event(event, idle));
  idle.synchronize();
  for (const CaptureMode mode : {CaptureMode::global, CaptureMode::thread_local_, CaptureMode::relaxed})
    for (const CaptureMode asking : {CaptureMode::global, CaptureMode::relaxed}) {
      Capturing capturing(backend, mode);
      std::thread([&] {
        const CaptureMode before = backend.exchange_capture_mode(asking);
        CONTRACT_CODE(backend, record_device(event), capture);
        backend.exchange_capture_mode(before);
      }).join();
      CHECK(!capturing.end());
      CONTRACT_CODE(backend, query_event(event), ok);  // as it was
    }
  CONTRACT_OK(backend, record_device(event));
}

CONTRACT_CASE(
    "a capture that begins behind an event of all of the device goes on, while that is still to be done [75]") {
  const TestStream stuck(backend);
  const TestEvent event(backend);
  for (const CaptureMode mode : {CaptureMode::global, CaptureMode::thread_local_, CaptureMode::relaxed}) {
    Gate gate(backend, stuck);
    CONTRACT_OK(backend, record_device(event));
    Capturing capturing(backend, mode);
    const CaptureMode before = backend.exchange_capture_mode(CaptureMode::relaxed);
    CONTRACT_CODE(backend, query_event(event), not_ready);
    gate.open();
    CONTRACT_OK(backend, synchronize_event(event));
    backend.exchange_capture_mode(before);
    CHECK(capturing.end());
  }
}

CONTRACT_CASE("an event recorded in a capturing stream cannot be asked [34]") {
  const TestEvent event(backend);
  Capturing capturing(backend, CaptureMode::relaxed);
  CONTRACT_OK(backend, record_event(event, capturing.stream));
  CONTRACT_CODE(backend, query_event(event), capture);
}

CONTRACT_CASE("on an invalidated capture work is refused, and the stream works again once it has ended [48]") {
  const TestEvent event(backend);
  const TestStream stream(backend);
  Count count;
  CONTRACT_OK(backend, begin_capture(stream, CaptureMode::global));
  CONTRACT_CODE(backend, query_event(event), capture);
  CONTRACT_CODE(backend, launch_host_function(stream, &Count::add, &count), capture);
  GraphHandle graph = nullptr;
  CONTRACT_CODE(backend, end_capture(stream, &graph), capture);
  CHECK(graph == nullptr);
  CONTRACT_OK(backend, launch_host_function(stream, &Count::add, &count));
  stream.synchronize();
  CHECK(count.value() == 1);
}

CONTRACT_CASE("a stream that waits for a captured event joins the capture [31]") {
  const TestStream first(backend);
  const TestStream second(backend);
  const TestEvent fork(backend);
  const TestEvent join(backend);
  Count count;
  CONTRACT_OK(backend, begin_capture(first, CaptureMode::global));
  CONTRACT_OK(backend, record_event(fork, first));
  CONTRACT_OK(backend, wait_event(second, fork));
  CHECK(second.capture().state == CaptureInfo::State::active);
  CHECK(second.capture().id == first.capture().id);
  CHECK(second.capture().graph == first.capture().graph);
  CONTRACT_OK(backend, launch_host_function(second, &Count::add, &count));
  CONTRACT_OK(backend, record_event(join, second));
  CONTRACT_OK(backend, wait_event(first, join));
  const GraphHandle captured = end_capture(backend, first);
  CHECK(second.capture().state == CaptureInfo::State::none);
  CHECK(count.value() == 0);
  const TestGraph graph(backend, captured);
  graph.launch(first);
  first.synchronize();
  CHECK(count.value() == 1);
}

CONTRACT_CASE("to ask for the number of a stream that captures is refused, and ends the capture [74]") {
  for (const CaptureMode mode : {CaptureMode::global, CaptureMode::thread_local_, CaptureMode::relaxed})
    for (const bool guarded : {false, true}) {
      const TestStream stream(backend);
      REQUIRE(backend.begin_capture(stream, mode).ok());
      std::uint64_t id = 0;
      {
        std::optional<thole::detail::CaptureGuard> guard;
        if (guarded) guard.emplace(backend);
        CONTRACT_CODE(backend, stream_id(stream, &id), capture);
      }
      CHECK(stream.capture().state == CaptureInfo::State::invalidated);
      GraphHandle graph = nullptr;
      CONTRACT_CODE(backend, end_capture(stream, &graph), capture);
      CONTRACT_OK(backend, stream_id(stream, &id));
    }
}

CONTRACT_CASE("a capture whose fork was not joined gives no graph, and both streams work again [73]") {
  const TestStream first(backend);
  const TestStream second(backend);
  const TestEvent fork(backend);
  Count count;
  CONTRACT_OK(backend, begin_capture(first, CaptureMode::global));
  CONTRACT_OK(backend, record_event(fork, first));
  CONTRACT_OK(backend, wait_event(second, fork));
  CONTRACT_OK(backend, launch_host_function(second, &Count::add, &count));
  GraphHandle graph = nullptr;
  CONTRACT_CODE(backend, end_capture(first, &graph), capture);
  CHECK(graph == nullptr);
  CONTRACT_OK(backend, launch_host_function(first, &Count::add, &count));
  first.synchronize();
  CONTRACT_OK(backend, launch_host_function(second, &Count::add, &count));
  second.synchronize();
  CHECK(count.value() == 2);
}

CONTRACT_CASE("waiting inside a capture for what was recorded outside invalidates it [72]") {
  const TestStream outside(backend);
  const TestEvent event(backend);
  CONTRACT_OK(backend, record_event(event, outside));
  Capturing capturing(backend, CaptureMode::relaxed);
  CONTRACT_CODE(backend, wait_event(capturing.stream, event), capture);
  CHECK(!capturing.end());
}

CONTRACT_CASE("two captures cannot be merged [72]") {
  const TestEvent event(backend);
  Capturing first(backend, CaptureMode::relaxed);
  Capturing second(backend, CaptureMode::relaxed);
  CONTRACT_OK(backend, record_event(event, first.stream));
  CONTRACT_CODE(backend, wait_event(second.stream, event), capture);
  CHECK(!second.end());
}

CONTRACT_CASE("a capture in global or thread-local mode that another thread tries to end is gone [49]") {
  for (const CaptureMode mode : {CaptureMode::global, CaptureMode::thread_local_}) {
    const Capturing capturing(backend, mode);
    GraphHandle graph = nullptr;
    CHECK(elsewhere([&] { return backend.end_capture(capturing.stream, &graph); }).code == StatusCode::capture);
    CHECK(graph == nullptr);
    CHECK(capturing.stream.capture().state == CaptureInfo::State::none);
  }
}

CONTRACT_CASE("a stream that captures is not made to capture again, and its capture goes on unharmed [47]") {
  Capturing capturing(backend, CaptureMode::relaxed);
  const auto id = capturing.stream.capture().id;
  CHECK(!backend.begin_capture(capturing.stream, CaptureMode::relaxed).ok());
  CHECK(capturing.stream.capture().id == id);
  CHECK(capturing.end());
}

CONTRACT_CASE("ending a capture that was never begun is refused [50]") {
  const TestStream stream(backend);
  GraphHandle graph = nullptr;
  CONTRACT_CODE(backend, end_capture(stream, &graph), capture);
  CHECK(graph == nullptr);
}

CONTRACT_CASE("an event recorded in a capture is no event once that has ended, until it is recorded again [35]") {
  const TestEvent event(backend);
  const TestStream stream(backend);
  CONTRACT_OK(backend, begin_capture(stream, CaptureMode::relaxed));
  CONTRACT_OK(backend, record_event(event, stream));
  CONTRACT_OK(backend, destroy_graph(end_capture(backend, stream)));
  CONTRACT_CODE(backend, query_event(event), invalid);
  CONTRACT_CODE(backend, synchronize_event(event), invalid);
  CONTRACT_OK(backend, record_event(event, stream));
  CONTRACT_OK(backend, synchronize_event(event));
}

CONTRACT_CASE("instantiating a graph is unsafe in capture [51]") {
  const TestStream stream(backend);
  CONTRACT_OK(backend, begin_capture(stream, CaptureMode::relaxed));
  const GraphHandle graph = end_capture(backend, stream);
  GraphExecHandle exec = nullptr;
  const auto instantiate = [&] { return backend.instantiate_graph(graph, &exec); };
  for (const bool by_another : {false, true}) {
    Capturing capturing(backend, CaptureMode::global);
    CHECK((by_another ? elsewhere(instantiate) : instantiate()).code == StatusCode::capture);
    CHECK(!capturing.end());
  }
  CHECK(exec == nullptr);
  CONTRACT_OK(backend, destroy_graph(graph));
}

CONTRACT_CASE("a capture in relaxed mode may be ended by another thread") {
  const TestStream stream(backend);
  CONTRACT_OK(backend, begin_capture(stream, CaptureMode::relaxed));
  GraphHandle graph = nullptr;
  CHECK(elsewhere([&] { return backend.end_capture(stream, &graph); }).code == StatusCode::ok);
  REQUIRE(graph != nullptr);
  CONTRACT_OK(backend, destroy_graph(graph));
}

CONTRACT_CASE("the legacy default stream cannot capture") {
  CONTRACT_CODE(backend, begin_capture(nullptr, CaptureMode::global), capture);
}
