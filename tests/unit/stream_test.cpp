// <thole/stream.hpp>, <thole/event.hpp>

#include <doctest/doctest.h>

#include <optional>
#include <vector>

#include "support/rig.hpp"

using namespace support;

TEST_CASE("host functions run in the stream's order, when the stream gets there") {
  const Rig rig;
  const Stream stream(rig.device);
  std::vector<int> order;
  for (int i = 0; i != 3; ++i) stream.launch_host_function([&order, i] { order.push_back(i); });
  CHECK(order.empty());
  rig.sim().run_all();
  CHECK(order == std::vector<int>{0, 1, 2});
}

TEST_CASE("an event is ready when what was enqueued before it is done, and not before") {
  const Rig rig;
  const Stream stream(rig.device);
  stream.launch_host_function([] {});
  const Event event = stream.record();
  stream.launch_host_function([] {});
  CHECK_FALSE(event.ready());
  rig.sim().step(stream, 2);
  CHECK(event.ready());
  event.synchronize();
  CHECK(rig.sim().pending(stream) > 0);
}

TEST_CASE("a stream that waits for an event goes on after it") {
  const Rig rig;
  const Stream first(rig.device), second(rig.device);
  std::vector<int> order;
  first.launch_host_function([&] { order.push_back(1); });
  second.wait(first.record());
  second.launch_host_function([&] { order.push_back(2); });
  CHECK(rig.sim().step(second, 8) < 2);
  CHECK(order.empty());
  rig.sim().run_all();
  CHECK(order == std::vector<int>{1, 2});
}

TEST_CASE("an event outlives its stream, and a wait for one that was moved from is an error") {
  const Rig rig;
  std::optional<Stream> stream(std::in_place, rig.device);
  Event event = stream->record();
  stream.reset();
  CHECK_FALSE(event.ready());
  rig.sim().run_all();
  CHECK(event.ready());
  const Event moved = std::move(event);
  errc_text([&] { (void)event.ready(); }, Errc::moved_from);
  errc_text([&] { event.synchronize(); }, Errc::moved_from);
  const Stream other(rig.device);
  errc_text([&] { other.wait(event); }, Errc::moved_from);
}

TEST_CASE("a view of a stream that is gone is an error in every call") {
  const Rig rig;
  std::optional<Stream> stream(std::in_place, rig.device);
  const StreamRef view = *stream;
  CHECK(view == *stream);
  stream.reset();
  const Stream next(rig.device);  // may well have the same native handle
  errc_text([&] { view.synchronize(); }, Errc::invalid_argument);
  errc_text([&] { (void)view.record(); }, Errc::invalid_argument);
  errc_text([&] { view.launch_host_function([] {}); }, Errc::invalid_argument);
  errc_text([&] { (void)view.native(); }, Errc::invalid_argument);
  auto buffer = rig.heap.make_buffer<int>(4, 1);
  errc_text([&] { (void)buffer.async_to_device(view); }, Errc::invalid_argument);
  CHECK_FALSE(view == next);
}

TEST_CASE("a moved-from stream says so, and the other goes on") {
  const Rig rig;
  Stream from(rig.device);
  const Stream to = std::move(from);
  errc_text([&] { from.synchronize(); }, Errc::moved_from);
  errc_text([&] { (void)from.device(); }, Errc::moved_from);
  to.synchronize();
  CHECK(to.device() == rig.device);
}

TEST_CASE("a stream that cannot be made is an error, and the next one can") {
  const Rig rig;
  rig.sim().fail_call(SimulatedCall::create_stream, 1);
  errc_text([&] { (void)Stream(rig.device); }, Errc::device_error);
  Stream(rig.device).synchronize();
}

TEST_CASE("a simulated device is asked about no stream of another, and leaves it as it is") {
  const Rig rig, other;
  const Stream own(rig.device), foreign(other.device);
  const StreamRef foreign_default = detail::unwrap(detail::stream_from_native(other.device, nullptr));
  int ran = 0;
  for (const StreamRef& stream : {StreamRef(foreign), foreign_default}) {
    stream.launch_host_function([&] { ++ran; });
    const auto refused = [&](const auto& call) { return errc_text([&] { call(rig.sim()); }, Errc::wrong_device); };
    const auto text = refused([&](Simulation sim) { sim.step(stream); });
    CHECK(has(text, "Simulation::step: "));
    CHECK(has(text, "of one device (simulated), and the simulation of another (simulated)"));
    CHECK(has(refused([&](Simulation sim) { sim.release(stream); }), "Simulation::release: "));
    CHECK(has(refused([&](Simulation sim) { sim.hold(stream); }), "Simulation::hold: "));
    CHECK(has(refused([&](const Simulation& sim) { (void)sim.pending(stream); }), "Simulation::pending: "));
    CHECK(has(refused([&](Simulation sim) { sim.begin_capture(stream); }), "Simulation::begin_capture: "));
  }
  CHECK(ran == 0);
  other.sim().run_all();  // none of them is held, or captures
  CHECK(ran == 2);
  other.sim().begin_capture(foreign);
  CHECK(has(errc_text([&] { (void)rig.sim().end_capture(foreign); }, Errc::wrong_device), "Simulation::end_capture: "));
  (void)other.sim().end_capture(foreign);
}
