// Code that a test runs in the middle of a call of the simulated device: no driver has a door for that.

#include <thread>

#include "backend/simulated/backend.hpp"
#include "contract.hpp"

using namespace contract;
using thole::SimulatedCall;
using thole::detail::SimulatedBackend;

TEST_CASE("before_call runs once, in the next call of its kind, on its thread, before the device looks") {
  SimulatedBackend backend({});
  const TestStream stream(backend);
  const TestEvent event(backend);
  int runs = 0;
  std::thread::id thread;
  backend.before_call(SimulatedCall::record_event, [&] {
    ++runs;
    thread = std::this_thread::get_id();
    CONTRACT_OK(backend, begin_capture(stream, CaptureMode::relaxed));
  });
  CONTRACT_OK(backend, query_event(event));
  CHECK(runs == 0);
  CONTRACT_OK(backend, record_event(event, stream));
  CHECK(runs == 1);
  CHECK(thread == std::this_thread::get_id());
  CONTRACT_CODE(backend, query_event(event), capture);  // the record was captured
  GraphHandle graph = nullptr;
  CONTRACT_CODE(backend, end_capture(stream, &graph), capture);
  CONTRACT_OK(backend, record_event(event, stream));
  CHECK(runs == 1);
}

TEST_CASE("after_call runs when the device has done its part") {
  SimulatedBackend backend({});
  const TestStream stream(backend);
  backend.after_call(SimulatedCall::capture_info,
                     [&] { CONTRACT_OK(backend, begin_capture(stream, CaptureMode::relaxed)); });
  CHECK(stream.capture().state == CaptureInfo::State::none);
  CHECK(stream.capture().state == CaptureInfo::State::active);
  CONTRACT_OK(backend, destroy_graph(end_capture(backend, stream)));
}

TEST_CASE("what runs in a call may make calls of the same kind, and ask for the next one") {
  SimulatedBackend backend({});
  const TestEvent event(backend);
  std::string order;
  backend.before_call(SimulatedCall::query_event, [&] {
    order += 'b';
    CONTRACT_OK(backend, query_event(event));
    backend.before_call(SimulatedCall::query_event, [&] { order += 'c'; });
  });
  backend.after_call(SimulatedCall::query_event, [&] { order += 'a'; });
  CONTRACT_OK(backend, query_event(event));  // the call inside comes to its end first
  CHECK(order == "ba");
  CONTRACT_OK(backend, query_event(event));
  CHECK(order == "bac");
  backend.before_call(SimulatedCall::query_event, [&] { order += 'x'; });
  backend.before_call(SimulatedCall::query_event, nullptr);
  CONTRACT_OK(backend, query_event(event));
  CHECK(order == "bac");
}

TEST_CASE("a device that is lost in the middle of a call refuses it") {
  SimulatedBackend backend({.loss_is_final = false});
  EventHandle event = nullptr;
  backend.before_call(SimulatedCall::create_event, [&] { backend.lose_device(); });
  CONTRACT_CODE(backend, create_event(&event), device_lost);
  CHECK(event == nullptr);
}
