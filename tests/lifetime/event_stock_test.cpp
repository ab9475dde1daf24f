// Events are made before they are needed: making one may block as long as any stream of the process stands still. Calls
// that make events are counted, which the simulated device does.

#include <memory>
#include <optional>
#include <vector>

#include "../support/rig.hpp"

using namespace support;

namespace {

constexpr std::size_t bytes = 4 * KiB;

std::size_t made(const Rig& rig) { return rig.calls(SimulatedCall::create_event); }

}  // namespace

TEST_CASE("on a new device nothing that a program does with memory and streams makes an event") {
  for (const bool blocking : {false, true}) {
    const Rig rig(Device::simulated({.stepped = true}));
    if (blocking) detail::HandleAccess::core(rig.device)->events.make_blocking();
    const Stream first(rig.device), second(rig.device);
    const auto before = made(rig);
    DeviceBuffer<std::byte> target(first, bytes);
    std::vector<Event> events;
    for (int i = 0; i != 10; ++i) {
      auto buffer = rig.heap.make_buffer<std::byte>(bytes);
      buffer.async_to_device(first, target.span());
      buffer.async_from_device(second, target.span());
      use_on(first, reads(target), writes(buffer), [](const std::byte*, std::byte*, NativeStream) {});
      events.push_back(second.record());
      first.wait(events.back());
    }
    rig.sim().run_all();
    for (const Event& event : events) CHECK(event.ready());
    CHECK(made(rig) == before);
  }
}

TEST_CASE("of the events that a burst has made some stay for the next one, and the others are destroyed") {
  constexpr std::size_t most = detail::EventStock::most;
  for (const bool timing : {false, true}) {
    const Rig rig;
    auto& core = *detail::HandleAccess::core(rig.device);
    const Stream stream(rig.device);
    const auto burst = [&](std::size_t count) {
      std::vector<Event> events;
      for (std::size_t i = 0; i != count; ++i) events.push_back(stream.record({.timing = timing}));
      rig.sim().run_all();
      stream.synchronize();
    };
    for (int again = 0; again != 3; ++again) burst(most - 2 * detail::EventStock::full);
    until([&] { return !core.is_untidy() && !core.is_tidying(); });  // some have been made ahead meanwhile
    CHECK(rig.calls(SimulatedCall::destroy_event) == 0);
    CHECK(rig.sim().live_events() <= most);
    burst(3 * most);
    CHECK(made(rig) >= 3 * most);
    until([&] { return !core.has_too_much() && !core.is_tidying(); });
    CHECK(rig.sim().live_events() <= most + 64);  // and what the stream keeps for itself
    CHECK(rig.sim().live_events() >= most / 2);
    CHECK(stream.record({.timing = timing}).try_ready().has_value());
  }
}

TEST_CASE("the events of many streams that were busy at one time do not stay when they have ended") {
  const Rig rig(stepped(), {.bytes = 4 * MiB});
  {
    std::vector<Stream> streams;
    for (int i = 0; i != 3'000; ++i) {
      streams.emplace_back(rig.device);
      rig.heap.make_buffer<std::byte>(64).use_on(streams.back(), Access::device_reads,
                                                 [](const std::byte*, NativeStream) {});
    }
    CHECK(rig.sim().live_events() >= 3'000);
    rig.sim().run_all();
    (void)rig.heap.collect();
  }
  until([&] {
    rig.sim().run_all();
    (void)rig.heap.collect();
    return rig.sim().live_events() <= detail::EventStock::most;
  });
}

TEST_CASE("events that are taken are made again by a thread of the library's, before there are none") {
  const Rig rig;
  const Stream stream(rig.device);
  const auto before = made(rig);
  const auto me = std::this_thread::get_id();
  std::atomic<bool> by_this_thread{false};
  rig.sim().before_call(SimulatedCall::create_event, [&] { by_this_thread = std::this_thread::get_id() == me; });
  std::vector<Event> events;  // each keeps one
  while (events.size() <= detail::EventStock::full - detail::EventStock::low + 1) events.push_back(stream.record());
  until([&] { return made(rig) >= before + detail::EventStock::full - detail::EventStock::low; });
  CHECK(!by_this_thread);
  until([&] { return !detail::HandleAccess::core(rig.device)->events.is_low(); });
}

TEST_CASE("a thread that cannot make events because a stream stands still holds up nothing that comes back") {
  const Rig rig;
  const Stream stream(rig.device);
  const auto before = made(rig);
  std::atomic<bool> blocked{false}, go_on{false};
  std::vector<Event> events;
  rig.sim().before_call(SimulatedCall::create_event, [&] {
    blocked = true;
    until([&] { return go_on.load(); });
  });
  while (events.size() <= detail::EventStock::full - detail::EventStock::low + 1) events.push_back(stream.record());
  until([&] { return blocked.load(); });
  const auto other = stepped();
  {
    const Stream other_stream(other);
    DeviceBuffer<std::byte> target(other_stream, bytes);
    const PinnedHeap heap(PinnedArena(other, {.bytes = MiB}));
    heap.make_buffer<std::byte>(bytes).async_to_device(other_stream, target.span());
  }
  until([&] {
    other.simulation().run_all();
    return other.simulation().arena_bytes() == 0;
  });
  CHECK(!go_on.load());
  go_on = true;
  until([&] { return made(rig) > before; });  // that thread looks at it no more
}
