// Host functions: who runs them, and what they may ask of the device.

#include <algorithm>
#include <chrono>
#include <functional>
#include <optional>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "contract.hpp"

using namespace contract;

namespace {

/// A call of the seam by its name, and what it answered in a host function.
struct Call {
  std::string_view name;
  std::function<Status()> make;
  StatusCode answer = StatusCode::ok;
};
using Calls = std::vector<Call>;

/// Makes the calls in a host function of the stream.
void call_in_host_function(DeviceBackend& backend, StreamHandle stream, Calls& calls) {
  const auto make_all = [](void* argument) {
    for (Call& call : *static_cast<Calls*>(argument)) call.answer = call.make().code;
  };
  CONTRACT_OK(backend, launch_host_function(stream, make_all, &calls));
  CONTRACT_OK(backend, synchronize_stream(stream));
}

void all_answer(const Calls& calls, StatusCode wanted) {
  for (const Call& call : calls) {
    CAPTURE(call.name);
    CHECK(call.answer == wanted);
  }
}

void nothing(void*) {}

}  // namespace

CONTRACT_CASE("one thread runs the host functions of all streams, and those of graphs [43]") {
  const auto look = [](void* seen) { *static_cast<std::thread::id*>(seen) = std::this_thread::get_id(); };
  const TestStream first(backend);
  const TestStream second(backend);
  std::thread::id seen[3];
  CONTRACT_OK(backend, begin_capture(second, CaptureMode::relaxed));
  CONTRACT_OK(backend, launch_host_function(second, look, &seen[2]));
  const TestGraph graph(backend, end_capture(backend, second));
  CONTRACT_OK(backend, launch_host_function(first, look, &seen[0]));
  first.synchronize();
  CONTRACT_OK(backend, launch_host_function(second, look, &seen[1]));
  graph.launch(second);
  second.synchronize();
  CHECK(seen[0] != std::thread::id());
  CHECK(seen[1] == seen[0]);
  CHECK(seen[2] == seen[0]);
}

CONTRACT_CASE("in a host function the device may be asked for events, and the capture mode be exchanged [44]") {
  const TestStream stream(backend), other(backend);
  const TestEvent event(backend);
  CONTRACT_OK(backend, record_event(event, other));
  other.synchronize();
  std::optional<CaptureMode> before, after;
  Calls allowed{{"query_event", [&] { return backend.query_event(event); }},
                {"synchronize_event", [&] { return backend.synchronize_event(event); }},
                {"exchange_capture_mode", [&] {
                   before = backend.exchange_capture_mode(CaptureMode::relaxed);
                   after = backend.exchange_capture_mode(*before);
                   return Status{};
                 }}};
  call_in_host_function(backend, stream, allowed);
  all_answer(allowed, StatusCode::ok);
  CHECK(before.has_value());  // whatever mode a thread of the driver's is in
  CHECK(after == CaptureMode::relaxed);
}

CONTRACT_CASE(
    "in a host function no work can be given to a stream, and nothing be made, let go of or waited for [44]") {
  const Pinned host(backend, Pages::page);
  const Pages pages(Pages::page);
  void* from_driver = nullptr;
  CONTRACT_OK(backend, allocate_host(Pages::page, &from_driver));
  const TestStream stream(backend), other(backend);
  const OnDevice device(backend, Pages::page, stream);
  const TestEvent event(backend);
  CONTRACT_OK(backend, begin_capture(other, CaptureMode::relaxed));
  CONTRACT_OK(backend, launch_host_function(other, nothing, nullptr));
  const GraphHandle graph = end_capture(backend, other);
  GraphExecHandle exec = nullptr;
  CONTRACT_OK(backend, instantiate_graph(graph, &exec));
  int mark = 0;
  void* made = &mark;
  Calls refused{
      {"copy", [&] { return backend.copy(device.data(), host.data(), 16, CopyKind::host_to_device, other); }},
      {"record_event", [&] { return backend.record_event(event, other); }},
      {"wait_event", [&] { return backend.wait_event(other, event); }},
      {"launch_host_function", [&] { return backend.launch_host_function(other, nothing, nullptr); }},
      {"launch_graph", [&] { return backend.launch_graph(exec, other); }},
      {"allocate_device", [&] { return backend.allocate_device(16, other, &made); }},
      {"free_device", [&] { return backend.free_device(device.data(), other); }},
      {"register_host", [&] { return backend.register_host(pages.data(), Pages::page); }},
      {"unregister_host", [&] { return backend.unregister_host(host.data()); }},
      {"allocate_host", [&] { return backend.allocate_host(Pages::page, &made); }},
      {"free_host", [&] { return backend.free_host(from_driver); }},
      {"create_stream", [&] { return backend.create_stream(&made); }},
      {"create_event", [&] { return backend.create_event(&made); }},
      {"instantiate_graph", [&] { return backend.instantiate_graph(graph, &made); }},
      {"begin_capture", [&] { return backend.begin_capture(other, CaptureMode::relaxed); }},
      {"synchronize_stream", [&] { return backend.synchronize_stream(other); }},
      {"record_device", [&] { return backend.record_device(event); }},
  };
  call_in_host_function(backend, stream, refused);
  all_answer(refused, StatusCode::not_permitted);
  CHECK(made == &mark);
  CONTRACT_OK(backend, destroy_graph_exec(exec));
  CONTRACT_OK(backend, destroy_graph(graph));
  CONTRACT_OK(backend, free_host(from_driver));
}

CONTRACT_CASE("in a host function nothing can be destroyed, and no stream be asked [44]") {
  const TestStream stream(backend);
  StreamHandle other = nullptr;
  EventHandle event = nullptr, from = nullptr;
  CONTRACT_OK(backend, create_stream(&other));
  CONTRACT_OK(backend, create_event(&event, {.timing = true}));
  CONTRACT_OK(backend, create_event(&from, {.timing = true}));
  CONTRACT_OK(backend, record_event(from, other));
  CONTRACT_OK(backend, record_event(event, other));
  CONTRACT_OK(backend, synchronize_stream(other));
  std::chrono::nanoseconds time{-1};
  Calls allowed{{"elapsed", [&] { return backend.elapsed(from, event, &time); }}};
  call_in_host_function(backend, stream, allowed);
  all_answer(allowed, StatusCode::ok);
  CHECK(time.count() >= 0);
  CONTRACT_OK(backend, begin_capture(other, CaptureMode::relaxed));
  GraphHandle graph = end_capture(backend, other);
  GraphExecHandle exec = nullptr;
  CONTRACT_OK(backend, instantiate_graph(graph, &exec));
  std::uint64_t id = 0;
  int priority = 0;
  CaptureInfo info;
  Calls refused{
      {"stream_id", [&] { return backend.stream_id(other, &id); }},
      {"stream_priority", [&] { return backend.stream_priority(other, &priority); }},
      {"capture_info", [&] { return backend.capture_info(other, &info); }},
      {"destroy_graph_exec", [&] { return backend.destroy_graph_exec(exec); }},
      {"destroy_graph", [&] { return backend.destroy_graph(graph); }},
      {"destroy_event", [&] { return backend.destroy_event(event); }},
      {"destroy_stream", [&] { return backend.destroy_stream(other); }},
  };
  call_in_host_function(backend, stream, refused);
  all_answer(refused, StatusCode::not_permitted);
  // What was destroyed all the same is not destroyed twice.
  const auto still = [&](std::string_view call) {
    return std::ranges::find(refused, call, &Call::name)->answer != StatusCode::ok;
  };
  if (still("destroy_graph_exec")) CONTRACT_OK(backend, destroy_graph_exec(exec));
  if (still("destroy_graph")) CONTRACT_OK(backend, destroy_graph(graph));
  if (still("destroy_event")) CONTRACT_OK(backend, destroy_event(event));
  if (still("destroy_stream")) CONTRACT_OK(backend, destroy_stream(other));
  CONTRACT_OK(backend, destroy_event(from));
}
