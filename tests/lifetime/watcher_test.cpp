// Rule 2, where nobody comes any more: what the program has let go of comes back by thole's own thread. Who looks when
// is decided by steps and hooks, which the simulated device has.

#include <memory>
#include <optional>

#include "../support/rig.hpp"
#include "heap/collect.hpp"
#include "streams/stream_registry.hpp"

using namespace support;

namespace {

constexpr std::size_t bytes = 64 * KiB;

/// Until nothing of the device's is pinned, and nobody makes a call of thole's meanwhile.
void until_unpinned(const Device& device) {
  until([&] { return device.simulation().arena_bytes() == 0; });
}

std::size_t device_collect(const Device& device, detail::Wanted wanted = detail::Wanted::finished) {
  const auto& core = detail::HandleAccess::core(device);
  return core->collect(*core, wanted);
}

}  // namespace

TEST_CASE("blocks in flight in a stream of another device come back after their heap and arena have ended") {
  for (const bool stream_first : {false, true}) {
    const auto near = stepped(), far = stepped();
    auto stream = std::make_optional<Stream>(far);
    std::optional<DeviceBuffer<std::byte>> target(std::in_place, *stream, bytes);
    {
      const PinnedHeap heap(PinnedArena(near, {.bytes = MiB}));
      heap.make_buffer<std::byte>(bytes, std::byte{3}).async_to_device(*stream, target->span());
    }
    if (stream_first) {
      target.reset();
      stream.reset();
    }
    CHECK(near.simulation().arena_bytes() == MiB);
    far.simulation().run_all();
    until([&] {
      far.simulation().run_all();  // an event that is recorded only now
      return near.simulation().arena_bytes() == 0;
    });
  }
}

TEST_CASE("blocks in flight on two devices come back when both are done, after their heap and arena have ended") {
  for (const bool near_first : {true, false}) {
    const auto near = stepped(), far = stepped();
    const Stream one(near), other(far);
    DeviceBuffer<std::byte> first(one, bytes), second(other, bytes);
    (near_first ? near : far).simulation().run_all();
    {
      const PinnedHeap heap(PinnedArena(near, {.bytes = MiB}));
      const auto buffer = heap.make_buffer<std::byte>(bytes);
      buffer.async_to_device(one, first.span());
      buffer.async_to_device(other, second.span());
    }
    const auto& early = near_first ? near : far;
    const auto& late = near_first ? far : near;
    for (int i = 0; i != 3; ++i) early.simulation().run_all();
    CHECK(near.simulation().arena_bytes() == MiB);
    until([&] {
      early.simulation().run_all();
      late.simulation().run_all();
      return near.simulation().arena_bytes() == 0;
    });
  }
}

TEST_CASE("a block that a graph lets go of comes back though nobody comes any more") {
  for (const bool in_flight : {false, true}) {
    const auto device = stepped(), other = stepped();
    // The graph is the arena's device's, or another's.
    for (const Device& capturing : {device, other}) {
      const Stream stream(capturing);
      DeviceBuffer<std::byte> target(stream, bytes);
      (void)stream.native();  // an event behind it
      capturing.simulation().run_all();
      std::optional<SimulatedGraph> graph;
      {
        const PinnedHeap heap(PinnedArena(device, {.bytes = MiB}));
        capturing.simulation().begin_capture(stream);
        heap.make_buffer<std::byte>(bytes, std::byte{3}).async_to_device(stream, target.span());
        graph = capturing.simulation().end_capture(stream);
      }
      if (in_flight) graph->instantiate().launch(stream);
      CHECK(device.simulation().arena_bytes() == MiB);
      graph.reset();
      if (in_flight) CHECK(device.simulation().arena_bytes() == MiB);
      capturing.simulation().run_all();
      until_unpinned(device);
    }
  }
}

TEST_CASE("a block that a graph lets go of while the library's own thread is looking comes back") {
  const auto device = stepped();
  auto sim = device.simulation();
  const Stream stream(device);
  DeviceBuffer<std::byte> target(stream, bytes);
  (void)stream.native();
  sim.run_all();
  std::optional<SimulatedGraph> graph;
  {
    const PinnedHeap heap(PinnedArena(device, {.bytes = MiB}));
    sim.begin_capture(stream);
    heap.make_buffer<std::byte>(bytes).async_to_device(stream, target.span());
    graph = sim.end_capture(stream);
    heap.make_buffer<std::byte>(bytes).async_to_device(stream, target.span());
    (void)stream.native();
    sim.run_all();
    // That thread has taken what graphs let go of, and asks for the other block, which is done.
    sim.before_call(SimulatedCall::query_event, [&graph] { graph.reset(); });
  }
  until_unpinned(device);
}

TEST_CASE("a block that nobody's graph holds any more comes back to a heap that lives, with background_reclaim") {
  const Rig rig(stepped(), {.bytes = MiB}, {.background_reclaim = true});
  const Stream stream(rig.device);
  DeviceBuffer<std::byte> target(stream, bytes);
  rig.settle(stream);
  rig.sim().begin_capture(stream);
  rig.heap.make_buffer<std::byte>(bytes).async_to_device(stream, target.span());
  (void)rig.sim().end_capture(stream);
  until([&] { return rig.heap.stats().in_flight == 0 && rig.heap.stats().in_use == 0; });
}

TEST_CASE("device memory that a thread is just trying to free counts as work, so that thole's own goes on looking") {
  const auto device = stepped();
  auto sim = device.simulation();
  const auto& streams = *detail::HandleAccess::core(device)->streams;
  const Stream stream(device);
  auto memory = std::make_optional<DeviceBuffer<std::byte>>(stream, bytes);
  sim.begin_capture(stream, SimulatedCaptureMode::relaxed);
  memory.reset();  // to be freed when the capture has ended
  sim.run_all();   // else an earlier event says enough
  std::atomic<int> counted{-1};
  // On whichever thread tries next, with the memory in its hands.
  sim.before_call(SimulatedCall::capture_info, [&] { counted = streams.has_work() ? 1 : 0; });
  (void)device_collect(device);
  until([&] { return counted != -1; });
  CHECK(counted == 1);
  (void)sim.end_capture(stream);
  until([&] {
    sim.run_all();
    return sim.device_bytes() == 0;
  });
}

TEST_CASE("a stream that a thread is just trying to end counts as work, so that thole's own goes on looking") {
  const auto device = stepped();
  auto sim = device.simulation();
  const auto& streams = *detail::HandleAccess::core(device)->streams;
  auto stream = std::make_optional<Stream>(device);
  std::atomic<int> counted{-1};
  sim.fail_call(SimulatedCall::record_event, 1);
  sim.after_call(SimulatedCall::record_event, [&] {
    sim.fail_call(SimulatedCall::record_event, 1);
    // Set before the second refusal, so that the first call behind both is the one of the next who tries.
    sim.after_call(SimulatedCall::record_event, [&] {
      sim.before_call(SimulatedCall::record_event, [&] { counted = streams.has_work() ? 1 : 0; });
    });
  });
  stream.reset();
  (void)device_collect(device);
  until([&] { return counted != -1; });
  CHECK(counted == 1);
  until([&] {
    sim.run_all();
    return sim.calls(SimulatedCall::destroy_stream) == 1;
  });
}

TEST_CASE("a stream whose last event is refused twice still frees device memory in the end") {
  for (const bool memory_first : {true, false}) {
    const auto device = stepped();
    auto sim = device.simulation();
    auto stream = std::make_optional<Stream>(device);
    std::optional<DeviceBuffer<std::byte>> memory(std::in_place, *stream, bytes);
    if (memory_first) memory.reset();
    int refused = 0;
    sim.fail_call(SimulatedCall::record_event, 1);
    sim.after_call(SimulatedCall::record_event, [&] {
      ++refused;
      sim.fail_call(SimulatedCall::record_event, 1);
    });
    stream.reset();
    CHECK(refused == 1);
    memory.reset();
    until([&] {
      sim.run_all();
      return sim.device_bytes() == 0;
    });
    CHECK(Device(device).take_error().has_value());
  }
}

TEST_CASE("a stream whose last event is refused twice gives back the blocks that wait in it") {
  const auto device = stepped();
  auto sim = device.simulation();
  {
    const PinnedHeap heap(PinnedArena(device, {.bytes = MiB}));
    const Stream stream(device);
    DeviceBuffer<std::byte> memory(stream, bytes);
    heap.make_buffer<std::byte>(bytes).async_to_device(stream, memory.span());
    sim.fail_call(SimulatedCall::record_event, 1);
    sim.after_call(SimulatedCall::record_event, [&] { sim.fail_call(SimulatedCall::record_event, 1); });
  }
  until([&] {
    sim.run_all();
    return sim.arena_bytes() == 0 && sim.device_bytes() == 0;
  });
}

TEST_CASE("a stream whose last event is refused twice is destroyed in the end, though a view of it lives") {
  const auto device = stepped();
  auto sim = device.simulation();
  auto stream = std::make_optional<Stream>(device);
  const StreamRef view(*stream);
  const DeviceBuffer<std::byte> memory(*stream, bytes);
  sim.fail_call(SimulatedCall::record_event, 1);
  sim.after_call(SimulatedCall::record_event, [&] { sim.fail_call(SimulatedCall::record_event, 1); });
  stream.reset();
  errc_text([&] { (void)view.record(); }, Errc::invalid_argument);
  until([&] { return sim.calls(SimulatedCall::destroy_stream) == 1; });
}

TEST_CASE("a look at what is left behind takes the blocks that nobody has taken since the look before, and no others") {
  const auto device = stepped();
  const PinnedHeap heap(PinnedArena(device, {.bytes = 4 * MiB}));
  const Stream busy(device), idle(device);
  DeviceBuffer<std::byte> of_busy(busy, bytes), of_idle(idle, bytes);
  const auto drop_in_flight = [&](const Stream& stream, DeviceBuffer<std::byte>& memory) {
    heap.make_buffer<std::byte>(bytes).async_to_device(stream, memory.span());
    (void)stream.record();  // so that looking needs no event of its own
    device.simulation().run_all();
  };
  const auto left_behind = [&] { return device_collect(device, detail::Wanted::left_behind); };
  const auto take_own = [&] { return detail::collect_stream(*detail::HandleAccess::shared(busy)); };
  drop_in_flight(idle, of_idle);
  drop_in_flight(busy, of_busy);
  CHECK(left_behind() == 0);
  CHECK(take_own() == 1);
  drop_in_flight(busy, of_busy);
  CHECK(left_behind() == 1);  // the idle stream's
  CHECK(take_own() == 1);
  drop_in_flight(busy, of_busy);
  CHECK(left_behind() == 0);
  CHECK(left_behind() == 1);  // that of the busy stream, which has come to rest
  CHECK(left_behind() == 0);
}

TEST_CASE(
    "where the device is behind, one query gives many blocks back, and one that gave little is not soon repeated") {
  const auto device = stepped();
  auto simulation = device.simulation();
  const PinnedHeap heap(PinnedArena(device, {.bytes = 16 * MiB}));
  const Stream stream(device);
  DeviceBuffer<std::byte> memory(stream, bytes);
  const auto drop_in_flight = [&](std::uint64_t count) {
    for (std::uint64_t i = 0; i != count; ++i) {
      heap.make_buffer<std::byte>(bytes).async_to_device(stream, memory.span());
      (void)stream.record();
    }
  };
  const auto recycled = [&] { return heap.stats().recycled; };
  const auto queries = [&] { return simulation.calls(SimulatedCall::query_event); };
  constexpr std::uint64_t several = detail::Timeline::uses_per_ticket;
  constexpr std::uint64_t blocks = 4 * several;
  drop_in_flight(blocks);
  simulation.run_all();
  auto before = queries();
  drop_in_flight(blocks);  // with what comes back meanwhile
  CHECK(recycled() >= blocks - several);
  CHECK(queries() - before <= blocks / 4);

  simulation.run_all();
  (void)heap.collect();
  drop_in_flight(several);
  CHECK(detail::collect_some(*detail::HandleAccess::shared(stream)) == 0);
  const auto was = recycled();
  simulation.step(stream, 2);  // a copy and its event
  before = queries();
  drop_in_flight(several - 1);
  CHECK(queries() - before <= 1);  // a question costs as much as ten drops
  drop_in_flight(several);
  CHECK(recycled() == was + 1);
}

TEST_CASE("what another call finds to be done while a look is told that it is not comes back with that look") {
  for (const bool thorough : {false, true}) {
    const auto device = stepped();
    const PinnedHeap heap(PinnedArena(device, {.bytes = MiB}));
    const Stream stream(device);
    DeviceBuffer<std::byte> memory(stream, bytes);
    heap.make_buffer<std::byte>(bytes).async_to_device(stream, memory.span());
    const Event first = stream.record(), last = stream.record();
    bool found = false;
    device.simulation().after_call(SimulatedCall::query_event, [&] {
      device.simulation().run_all();
      found = last.ready();
    });
    CHECK((thorough ? device_collect(device) : detail::collect_some(*detail::HandleAccess::shared(stream))) == 1);
    CHECK(found);
  }
}
