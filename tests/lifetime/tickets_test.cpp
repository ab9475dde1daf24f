// Rule 1: a use is a position in a stream; events cover many positions; memory is free when its own copies are done.
// Which event covers what is counted and stepped on the simulated device.

#include <optional>
#include <thread>
#include <vector>

#include "../support/rig.hpp"

using namespace support;

namespace {

using Bytes = PinnedBuffer<std::byte>;

/// A stream with device memory in it, whose slack begins anew.
struct Lane {
  explicit Lane(const Rig& rig, std::size_t bytes = 4 * KiB) : stream(rig.device), target(stream, bytes) {
    (void)stream.record();
    rig.finish(stream);
    rig.heap.collect();
  }
  void copy(const Bytes& buffer) { buffer.async_to_device(stream, target.span()); }
  void copy_and_drop(const Rig& rig, std::size_t bytes = 4 * KiB) { copy(rig.heap.make_buffer<std::byte>(bytes)); }

  Stream stream;
  DeviceBuffer<std::byte> target;
};

}  // namespace

TEST_CASE("a dropped buffer is not reused until its copy has finished") {
  const Rig rig(under_test());
  const auto whole = rig.arena.capacity();
  Lane lane(rig, whole);
  Gate gate(rig, lane.stream);
  lane.copy(rig.heap.make_buffer<std::byte>(whole, std::byte{7}));
  const auto text = errc_text_of(rig.heap.try_make_buffer<std::byte>(1), Errc::out_of_memory);
  CHECK(has(text, std::to_string(whole) + " in flight"));
  gate.open();
  rig.finish(lane.stream);
  CHECK(rig.all_free());
  CHECK(device_holds(rig, lane.stream, lane.target, 7));
}

TEST_CASE("what a copy reads is what was there when it was enqueued, whatever is made and written meanwhile") {
  const Rig rig(under_test());
  Lane lane(rig, 64 * KiB);
  {
    Gate gate(rig, lane.stream);
    {
      auto buffer = rig.heap.make_buffer<std::byte>(64 * KiB, std::byte{1});
      lane.copy(buffer);
      auto moved = std::move(buffer);
    }
    std::vector<Bytes> others;
    while (auto made = rig.heap.try_make_buffer<std::byte>(16 * KiB)) {
      fill(*made, 2);
      others.push_back(std::move(*made));
    }
    CHECK(others.size() >= 40);
  }
  rig.finish(lane.stream);
  CHECK(device_holds(rig, lane.stream, lane.target, 1));
}

TEST_CASE("one event covers the copies of sixteen uses") {
  const Rig rig;
  Lane lane(rig);
  const auto buffer = rig.heap.make_buffer<std::byte>(4 * KiB);
  const auto before = rig.calls(SimulatedCall::record_event);
  for (int i = 0; i != 320; ++i) lane.copy(buffer);
  CHECK(rig.calls(SimulatedCall::record_event) - before == 20);
}

TEST_CASE("large blocks get an event for each MiB") {
  const Rig rig(stepped(), {.bytes = 4 * MiB});
  Lane lane(rig, MiB / 2);
  const auto buffer = rig.heap.make_buffer<std::byte>(MiB / 2);
  const auto before = rig.calls(SimulatedCall::record_event);
  for (int i = 0; i != 8; ++i) lane.copy(buffer);
  CHECK(rig.calls(SimulatedCall::record_event) - before == 4);
}

TEST_CASE("a block is free when the event behind its copy is done, with at most sixteen uses between them") {
  const Rig rig;
  Lane lane(rig);
  lane.copy_and_drop(rig);
  const auto other = rig.heap.make_buffer<std::byte>(4 * KiB);
  for (int i = 0; i != 40; ++i) lane.copy(other);
  CHECK(rig.sim().step(lane.stream, 16) == 16);  // sixteen copies, not the event behind them
  CHECK(rig.heap.collect() == 0);
  CHECK(rig.sim().step(lane.stream) == 1);
  CHECK(rig.heap.collect() == 1);
  CHECK(rig.sim().pending(lane.stream) >= 25);
}

TEST_CASE("whoever asks puts an event close behind the copy, so that later work does not delay the answer") {
  const Rig rig;
  Lane lane(rig);
  lane.copy_and_drop(rig);
  CHECK(rig.heap.collect() == 0);
  const auto other = rig.heap.make_buffer<std::byte>(4 * KiB);
  for (int i = 0; i != 5; ++i) lane.copy(other);
  CHECK(rig.sim().step(lane.stream, 2) == 2);  // the copy and the event
  CHECK(rig.heap.collect() == 1);
  CHECK(other.busy());
}

TEST_CASE("a host function does not delay the blocks that were copied before it") {
  const Rig rig;
  Lane lane(rig);
  lane.copy_and_drop(rig);
  bool ran = false;
  lane.stream.launch_host_function([&ran] { ran = true; });
  CHECK(rig.sim().step(lane.stream, 2) == 2);
  CHECK(rig.heap.collect() == 1);
  CHECK(!ran);
  rig.finish(lane.stream);
  CHECK(ran);
}

TEST_CASE(
    "work of the program's own, enqueued through native(), does not delay the blocks that were copied before it") {
  const Rig rig;
  Lane lane(rig);
  lane.copy_and_drop(rig);
  bool ran = false;
  CHECK(rig.backend()
            .launch_host_function(
                lane.stream.native(), [](void* flag) { *static_cast<bool*>(flag) = true; }, &ran)
            .ok());
  CHECK(rig.sim().step(lane.stream, 2) == 2);
  CHECK(rig.heap.collect() == 1);
  CHECK(!ran);
  rig.finish(lane.stream);
}

TEST_CASE("waiting for another stream's event does not delay the blocks that were copied before the wait") {
  const Rig rig;
  Lane lane(rig);
  const Lane other(rig);
  other.stream.launch_host_function([] {});
  const Event event = other.stream.record();
  lane.copy_and_drop(rig);
  lane.stream.wait(event);
  CHECK(rig.sim().step(lane.stream, 100) == 2);
  CHECK(rig.heap.collect() == 1);
  CHECK(rig.sim().pending(lane.stream) == 1);
}

TEST_CASE("hundreds of frees take a handful of queries") {
  const Rig rig(stepped(), {.bytes = 4 * MiB});
  Lane lane(rig);
  for (int i = 0; i != 640; ++i) lane.copy_and_drop(rig);
  rig.finish(lane.stream);
  const auto before = rig.calls(SimulatedCall::query_event);
  CHECK(rig.heap.collect() == 640);
  CHECK(rig.calls(SimulatedCall::query_event) - before <= 4);
}

TEST_CASE("half-finished work is found with few queries as well") {
  const Rig rig(stepped(), {.bytes = 4 * MiB});
  Lane lane(rig);
  for (int i = 0; i != 640; ++i) lane.copy_and_drop(rig);  // an event behind each sixteen
  CHECK(rig.sim().step(lane.stream, 340) == 340);          // twenty groups of 17 operations
  const auto before = rig.calls(SimulatedCall::query_event);
  CHECK(rig.heap.collect() == 320);
  CHECK(rig.calls(SimulatedCall::query_event) - before <= 20);
}

TEST_CASE("events are pooled") {
  const Rig rig;
  Lane lane(rig);
  const auto made_ahead = rig.calls(SimulatedCall::create_event);
  for (int round = 0; round != 200; ++round) {
    for (int i = 0; i != 20; ++i) lane.copy_and_drop(rig, 1 * KiB);
    rig.finish(lane.stream);
    rig.heap.collect();
  }
  CHECK(rig.sim().live_events() == made_ahead);
  CHECK(rig.calls(SimulatedCall::create_event) == made_ahead);
}

TEST_CASE("an event that somebody waits for is not recorded again") {
  const Rig rig;
  Lane lane(rig);
  lane.copy_and_drop(rig);
  const Event early = lane.stream.record();
  rig.finish(lane.stream);
  rig.heap.collect();
  for (int i = 0; i != 40; ++i) lane.copy_and_drop(rig);  // records events, out of the pool
  const auto queries = rig.calls(SimulatedCall::query_event);
  CHECK(early.ready());
  CHECK(rig.calls(SimulatedCall::query_event) == queries);  // what is known to be done needs no query
  CHECK(rig.sim().pending(lane.stream) > 40);
}

TEST_CASE("an event that is done is ready, also while another thread finds that out and a later one is not done") {
  const Rig rig;
  const Stream stream(rig.device);
  const std::jthread other([&](const std::stop_token& stop) {
    while (!stop.stop_requested()) rig.heap.collect();
  });
  for (int i = 0; i != 20000; ++i) {
    const Event done = stream.record();
    const Event later = stream.record();
    rig.sim().step(stream, 1);
    const bool ready = done.ready();
    rig.sim().run_all();
    REQUIRE(ready);
  }
}

TEST_CASE("what synchronize has waited for is free, though the event that covers it lies behind later work") {
  const Rig rig;
  Lane lane(rig);
  auto buffer = std::make_optional(rig.heap.make_buffer<std::byte>(4 * KiB));
  lane.copy(*buffer);
  std::jthread waiter([&] { lane.stream.synchronize(); });
  until_blocked(rig.sim());
  buffer.reset();
  const Event later = lane.stream.record();
  rig.heap.collect();  // the later event is the first that covers the copy
  CHECK(rig.heap.stats().in_flight == 4 * KiB);
  rig.sim().step(lane.stream, 1);
  waiter.join();
  CHECK(rig.heap.stats().in_flight == 0);
  CHECK(!later.ready());
}

TEST_CASE("what synchronize has waited for needs no event") {
  const Rig rig;
  Lane lane(rig);
  lane.copy_and_drop(rig);
  (void)rig.heap.make_buffer<std::byte>(64 * KiB);  // finds the block in flight, without an event behind it
  const auto records = rig.calls(SimulatedCall::record_event);
  std::jthread waiter([&] { lane.stream.synchronize(); });
  until_blocked(rig.sim());
  rig.sim().step(lane.stream, 1);
  waiter.join();
  CHECK(rig.heap.stats().in_flight == 0);
  CHECK(rig.calls(SimulatedCall::record_event) == records);
}

TEST_CASE("a failed event is no harm: the next one covers the copy") {
  const Rig rig;
  Lane lane(rig);
  const auto whole = rig.arena.capacity();
  DeviceBuffer<std::byte> target(lane.stream, whole);
  (void)lane.stream.record();
  rig.finish(lane.stream);
  rig.heap.collect();
  rig.sim().fail_call(SimulatedCall::record_event, 1);
  rig.heap.make_buffer<std::byte>(whole).async_to_device(lane.stream, target.span());
  CHECK(!rig.all_free());
  rig.finish(lane.stream);
  CHECK(rig.all_free());
  CHECK(!rig.device.lost());
}

TEST_CASE("a failed event behind which no copy was enqueued leaves nothing to cover") {
  const Rig rig;
  const Lane lane(rig);
  rig.sim().fail_call(SimulatedCall::record_event, 1);
  (void)errc_text([&] { (void)lane.stream.record(); }, Errc::device_error);
  const auto records = rig.calls(SimulatedCall::record_event);
  (void)lane.stream.native();
  CHECK(rig.calls(SimulatedCall::record_event) == records);
}

TEST_CASE("an event that cannot be made is no harm either") {
  const Rig rig;
  const Stream stream(rig.device);
  const auto whole = rig.arena.capacity();
  DeviceBuffer<std::byte> target(stream, whole);
  const EmptyStock no_event(rig);
  rig.sim().fail_call(SimulatedCall::create_event, 1);
  rig.heap.make_buffer<std::byte>(whole).async_to_device(stream, target.span());
  CHECK(!rig.all_free());
  rig.finish(stream);
  CHECK(rig.all_free());
}

TEST_CASE("an event whose record failed serves nobody any more") {
  const Rig rig;
  const Stream stream(rig.device);
  const auto event_of = [](const Event& event) { return detail::HandleAccess::ticket(event)->event; };
  detail::EventHandle failed = nullptr;
  {
    const Event first = stream.record();
    failed = event_of(first);  // and the next one's, when this one is done and gone
    rig.sim().run_all();
    REQUIRE(first.ready());
  }
  {
    const Event again = stream.record();
    REQUIRE(event_of(again) == failed);
    rig.sim().run_all();
    REQUIRE(again.ready());
  }
  const auto live = rig.sim().live_events();
  rig.sim().fail_call(SimulatedCall::record_event, 1);
  errc_text([&] { (void)stream.record(); }, Errc::device_error);
  until([&] { return rig.sim().live_events() == live - 1; });
}
