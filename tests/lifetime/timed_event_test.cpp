// Streams with a priority, events that measure time, waits that block. A clock that is known, and counted calls, are
// the simulated device's.

#include <thole/graph.hpp>

#include "../support/rig.hpp"

using namespace support;
using namespace std::chrono_literals;

TEST_CASE("an event that measures time says how long the device took, by its own clock") {
  const auto device = Device::simulated({.latency = 3us, .stepped = true});
  const Rig rig(device);
  const Stream stream(device);
  const Event start = stream.record({.timing = true});
  stream.launch_host_function([] {});
  const Event middle = stream.record({.timing = true});
  stream.launch_host_function([] {});
  stream.launch_host_function([] {});
  const Event end = stream.record({.timing = true});
  errc_text_of(middle.try_elapsed_since(start), Errc::in_flight);
  rig.sim().run_all();
  const auto first = middle.elapsed_since(start), all = end.elapsed_since(start);
  CHECK(first > 0ns);
  CHECK(all > first);
  CHECK(middle.elapsed_since(end) == first - all);
  CHECK(end.elapsed_since(end) == 0ns);
}

TEST_CASE("an event that measures time is an event as any, on every device") {
  const Rig rig(under_test());
  const Stream stream(rig.device), other(rig.device);
  const Event start = stream.record({.timing = true});
  stream.launch_host_function([] {});
  const Event end = stream.record({.timing = true});
  other.wait(end);
  rig.finish(stream);
  CHECK(start.ready());
  end.synchronize();
  CHECK(end.elapsed_since(start) >= 0ns);
}

TEST_CASE("events that cannot be compared say why") {
  const Rig rig, elsewhere;
  const Stream stream(rig.device), away(elsewhere.device);
  const Event plain = stream.record(), away_timed = away.record({.timing = true});
  Event timed = stream.record({.timing = true});
  rig.sim().run_all();
  elsewhere.sim().run_all();
  CHECK(has(errc_text_of(timed.try_elapsed_since(plain), Errc::invalid_argument), "timing"));
  errc_text_of(plain.try_elapsed_since(timed), Errc::invalid_argument);
  (void)capture(stream, [&] {
    const Event captured = stream.record({.timing = true});
    errc_text_of(captured.try_elapsed_since(timed), Errc::capturing);
    errc_text_of(timed.try_elapsed_since(captured), Errc::capturing);
  });
  errc_text_of(timed.try_elapsed_since(away_timed), Errc::wrong_device);
  const Event moved = std::move(timed);
  errc_text_of(moved.try_elapsed_since(timed), Errc::moved_from);
  errc_text_of(timed.try_elapsed_since(moved), Errc::moved_from);
  rig.sim().lose_device();
  errc_text_of(moved.try_elapsed_since(moved), Errc::device_lost);
}

TEST_CASE("events that measure time serve others that do, and no others") {
  const Rig rig;
  const Stream stream(rig.device);
  { const Event plain = stream.record(); }
  const auto before = rig.sim().live_events();
  for (int i = 0; i != 10; ++i) {
    const Event timed = stream.record({.timing = true});
    rig.sim().run_all();
    CHECK(timed.ready());
  }
  CHECK(rig.sim().live_events() == before + 1);
  const auto made = rig.calls(SimulatedCall::create_event);
  const Event plain = stream.record(), timed = stream.record({.timing = true}),
              another = stream.record({.timing = true});
  CHECK(rig.calls(SimulatedCall::create_event) == made + 1);
  rig.sim().run_all();
  CHECK_NOTHROW((void)another.elapsed_since(timed));
  CHECK(!plain.try_elapsed_since(timed).has_value());
}

TEST_CASE("a stream has the priority that it was made with, within the device's range") {
  const Rig rig(under_test());
  const Stream plain(rig.device), first(rig.device, {.priority = -1}), beyond(rig.device, {.priority = 100});
  CHECK(plain.priority() == 0);
  CHECK(first.priority() <= plain.priority());
  CHECK(beyond.priority() == 0);
  auto moved = Stream(rig.device);
  const Stream taken = std::move(moved);
  errc_text([&] { (void)moved.priority(); }, Errc::moved_from);
  errc_text([&] { (void)moved.id(); }, Errc::moved_from);
}

TEST_CASE("a stream's number is its own, and that of its views, and the one that reports name") {
  const Rig rig(under_test());
  const Stream a(rig.device), b(rig.device);
  CHECK(a.id() != b.id());
  CHECK(StreamRef(a).id() == a.id());
  auto buffer = rig.heap.make_buffer<int>(4);
  Gate gate(rig, b);
  buffer.use_on(b, Access::device_reads, [](const int*, NativeStream) {});
  CHECK(rig.heap.report().streams.at(0).stream_id == b.id());
}

TEST_CASE("a device whose waits block waits as any other") {
  const auto device = Device::simulated({.stepped = true}, {.blocking_waits = true});
  const Rig rig(device);
  const Stream stream(device);
  auto buffer = rig.heap.make_buffer<int>(4);
  buffer.use_on(stream, Access::device_writes, [](int*, NativeStream) {});
  std::thread waiter([&] {
    stream.synchronize();
    CHECK(buffer.try_borrow_mut().has_value());
  });
  until_blocked(rig.sim());
  rig.sim().run_all();
  waiter.join();
  CHECK(rig.calls(SimulatedCall::synchronize_stream) == 0);
  rig.sim().lose_device();
  errc_text([&] { stream.synchronize(); }, Errc::device_lost);
}
