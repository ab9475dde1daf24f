// Rule 2: one queue a stream; dropping makes no call and allocates nothing; a stuck stream delays its own blocks only.
// Calls, steps and many held streams are counted and had on the simulated device.

#include <chrono>
#include <optional>
#include <vector>

#include "../support/allocations.hpp"
#include "../support/rig.hpp"
#include "backend/event_stock.hpp"
#include "streams/stream_registry.hpp"

using namespace support;

namespace {

using Bytes = PinnedBuffer<std::byte>;

std::size_t all_calls(const Rig& rig) {
  std::size_t sum = 0;
  for (const auto call : {SimulatedCall::register_host, SimulatedCall::allocate_host, SimulatedCall::allocate_device,
                          SimulatedCall::create_stream, SimulatedCall::create_event, SimulatedCall::record_event,
                          SimulatedCall::query_event, SimulatedCall::wait_event, SimulatedCall::copy,
                          SimulatedCall::host_function, SimulatedCall::retain_in_graph})
    sum += rig.calls(call);
  return sum;
}

}  // namespace

TEST_CASE("dropping a buffer in flight makes no call to the device and allocates nothing") {
  const Rig rig;
  const Stream stream(rig.device);
  DeviceBuffer<std::byte> target(stream, 4 * KiB);
  std::vector<Bytes> buffers;
  for (int i = 0; i != 100; ++i) {
    buffers.push_back(rig.heap.make_buffer<std::byte>(4 * KiB));
    buffers.back().async_to_device(stream, target.span());
  }
  buffers.pop_back();  // the thread's own tables exist from here on
  const auto calls = all_calls(rig);
  const auto allocated = allocations();
  while (!buffers.empty()) buffers.pop_back();
  CHECK(allocations() == allocated);
  CHECK(all_calls(rig) == calls);
  const auto stats = rig.heap.stats();
  CHECK(stats.deferred == 100);
  CHECK(stats.in_flight >= 400 * KiB);
  CHECK(stats.in_use == 0);
}

TEST_CASE("dropping on a thread that never allocated makes no call to the device") {
  const Rig rig;
  const Stream stream(rig.device);
  DeviceBuffer<std::byte> target(stream, 4 * KiB);
  std::vector<Bytes> buffers;
  for (int i = 0; i != 10; ++i) {
    buffers.push_back(rig.heap.make_buffer<std::byte>(4 * KiB));
    buffers.back().async_to_device(stream, target.span());
  }
  const auto calls = all_calls(rig);
  std::thread([&] { buffers.clear(); }).join();
  CHECK(all_calls(rig) == calls);
  rig.settle(stream);
  rig.heap.drain();
  CHECK(rig.heap.stats().in_flight == 0);
}

TEST_CASE("a buffer with nothing in flight is free at once, without a call") {
  const Rig rig;
  const auto calls = all_calls(rig);
  (void)rig.heap.make_buffer<std::byte>(4 * KiB);
  CHECK(all_calls(rig) == calls);
  CHECK(rig.heap.stats().freed_at_once == 1);
  CHECK(rig.heap.stats().deferred == 0);
  CHECK(rig.all_free());
}

TEST_CASE("making and dropping without a stream allocates nothing once a thread is warm") {
  const Rig rig(under_test());
  (void)rig.heap.make_buffer<std::byte>(4 * KiB);
  const auto allocated = allocations();
  for (int i = 0; i != 100; ++i) {
    auto buffer = rig.heap.make_buffer<std::byte>(4 * KiB);
    (void)buffer.borrow_mut();
    (void)buffer.borrow();
  }
  CHECK(allocations() == allocated);
}

TEST_CASE("a stuck stream delays its own blocks only, and memory in use stays flat") {
  const Rig rig(under_test(), {.bytes = 4 * MiB});
  const Stream stuck(rig.device);
  DeviceBuffer<std::byte> stuck_target(stuck, 64 * KiB);
  rig.finish(stuck);
  Gate gate(rig, stuck);
  for (int i = 0; i != 8; ++i) rig.heap.make_buffer<std::byte>(64 * KiB).async_to_device(stuck, stuck_target.span());
  const auto held = rig.heap.stats().in_flight;
  CHECK(held >= 512 * KiB);
  std::vector<Stream> others;
  std::vector<DeviceBuffer<std::byte>> targets;
  for (int i = 0; i != 4; ++i) {
    others.emplace_back(rig.device);
    targets.emplace_back(others.back(), 64 * KiB);
  }
  for (int round = 0; round != 50; ++round) {
    for (std::size_t i = 0; i != others.size(); ++i)
      rig.heap.make_buffer<std::byte>(64 * KiB).async_to_device(others[i], targets[i].span());
    const auto early = rig.heap.collect();  // puts an event behind each copy; a GPU may be done with some
    for (const auto& stream : others) rig.finish(stream);
    CHECK(early + rig.heap.collect() == 4);
    REQUIRE(rig.heap.stats().in_flight == held);
  }
  CHECK(rig.arena.stats().peak < 4 * MiB);
  gate.open();
  rig.settle(stuck);
  rig.heap.drain();
  CHECK(rig.heap.stats().in_flight == 0);
}

TEST_CASE("a stuck stream does not make the streams beside it exhaust the arena") {
  const Rig rig(under_test());
  const Stream stuck(rig.device), busy(rig.device);
  DeviceBuffer<std::byte> a(stuck, 256 * KiB), b(busy, 256 * KiB);
  rig.settle(stuck);
  rig.settle(busy);
  Gate gate(rig, stuck);
  rig.heap.make_buffer<std::byte>(256 * KiB).async_to_device(stuck, a.span());
  for (int i = 0; i != 100; ++i) {
    auto made = rig.heap.try_make_buffer<std::byte>(256 * KiB);
    REQUIRE(made.has_value());  // reclaims under pressure, without collect()
    made->async_to_device(busy, b.span());
    (void)made->busy();
    rig.finish(busy);
  }
}

TEST_CASE("make_buffer under pressure recycles what is finished, by itself") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  DeviceBuffer<std::byte> target(stream, rig.arena.capacity());
  for (int i = 0; i != 20; ++i) {
    rig.heap.make_buffer<std::byte>(rig.arena.capacity()).async_to_device(stream, target.span());
    rig.finish(stream);
  }
  CHECK(rig.all_free());
  CHECK(rig.heap.stats().buffers_made == 21);
  CHECK(rig.heap.stats().deferred == 20);
}

TEST_CASE("make_buffer without pressure asks a bounded number of times, however much is in flight") {
  const Rig rig(stepped(), {.bytes = 8 * MiB});
  std::vector<Stream> streams;
  std::vector<DeviceBuffer<std::byte>> targets;
  for (int i = 0; i != 40; ++i) {
    streams.emplace_back(rig.device);
    targets.emplace_back(streams.back(), 4 * KiB);
  }
  for (int round = 0; round != 17; ++round)
    for (std::size_t i = 0; i != streams.size(); ++i)
      rig.heap.make_buffer<std::byte>(4 * KiB).async_to_device(streams[i], targets[i].span());
  rig.sim().run_all();
  for (int i = 0; i != 20; ++i) {
    const auto before = rig.calls(SimulatedCall::query_event);
    const auto buffer = rig.heap.make_buffer<std::byte>(std::size_t(1000 * (i + 1)));
    CHECK(rig.calls(SimulatedCall::query_event) - before <= 8);
  }
}

TEST_CASE("collect never waits and says how many buffers came back") {
  const Rig rig(under_test());
  until([&] {  // what earlier tests have left on the same device
    (void)rig.heap.collect();
    return detail::HandleAccess::core(rig.device)->streams->next_with_work() == nullptr;
  });
  const Stream stream(rig.device);
  DeviceBuffer<std::byte> target(stream, 4 * KiB);
  CHECK(rig.heap.collect() == 0);
  rig.settle(stream);
  Gate gate(rig, stream);
  for (int i = 0; i != 3; ++i) rig.heap.make_buffer<std::byte>(4 * KiB).async_to_device(stream, target.span());
  CHECK(rig.heap.collect() == 0);
  gate.open();
  rig.finish(stream);
  CHECK(rig.heap.collect() == 3);
  CHECK(rig.heap.collect() == 0);
  CHECK(rig.heap.stats().recycled == 3);
}

TEST_CASE("a collect with nothing in flight makes no call") {
  const Rig rig;
  const Stream stream(rig.device);
  const auto calls = all_calls(rig);
  for (int i = 0; i != 10; ++i) rig.heap.collect();
  CHECK(all_calls(rig) == calls);
}

TEST_CASE("drain waits for every use of the heap's buffers, dropped or not") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  DeviceBuffer<std::byte> target(stream, 4 * KiB);
  Gate gate(rig, stream);
  const auto kept = rig.heap.make_buffer<std::byte>(4 * KiB);
  kept.async_to_device(stream, target.span());
  rig.heap.make_buffer<std::byte>(4 * KiB).async_to_device(stream, target.span());
  std::thread drains([&] { rig.heap.drain(); });
  if (rig.simulated()) until_blocked(rig.sim());
  CHECK(kept.busy());
  gate.open();
  drains.join();
  CHECK(!kept.busy());
  CHECK(rig.heap.stats().in_flight == 0);
}

TEST_CASE("drain does not wait for the buffers of another heap") {
  const Rig rig(under_test());
  const PinnedHeap other(rig.arena);
  const Stream mine(rig.device), theirs(rig.device);
  DeviceBuffer<std::byte> a(mine, 4 * KiB), b(theirs, 4 * KiB);
  Gate gate(rig, theirs);
  other.make_buffer<std::byte>(4 * KiB).async_to_device(theirs, b.span());
  rig.heap.make_buffer<std::byte>(4 * KiB).async_to_device(mine, a.span());
  rig.heap.collect();
  rig.finish(mine);
  rig.heap.drain();
  CHECK(other.stats().in_flight > 0);
}

TEST_CASE("with background_reclaim a finished buffer comes back without anybody's call") {
  const Rig rig(under_test(), {.bytes = MiB}, {.background_reclaim = true});
  const Stream stream(rig.device);
  DeviceBuffer<std::byte> target(stream, 4 * KiB);
  rig.heap.make_buffer<std::byte>(4 * KiB).async_to_device(stream, target.span());
  until([&] {
    rig.finish(stream);
    return rig.heap.stats().recycled == 1;
  });
}

TEST_CASE("a timed call waits for copies in flight to give memory back") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  DeviceBuffer<std::byte> target(stream, rig.arena.capacity());
  Gate gate(rig, stream);
  rig.heap.make_buffer<std::byte>(rig.arena.capacity()).async_to_device(stream, target.span());
  bool made = false;
  std::thread waits([&] {
    made = rig.heap.try_make_buffer_for<std::byte>(rig.arena.capacity(), std::chrono::hours(24)).has_value();
  });
  until([&] { return rig.heap.stats().waited == 1; });
  gate.open();
  waits.join();
  CHECK(made);
}

TEST_CASE("a timed call that gets nothing says timed_out and how the memory is used") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  DeviceBuffer<std::byte> target(stream, rig.arena.capacity());
  Gate gate(rig, stream);
  rig.heap.make_buffer<std::byte>(rig.arena.capacity()).async_to_device(stream, target.span());
  const auto result = rig.heap.try_make_buffer_for<std::byte>(100, std::chrono::nanoseconds(0));
  const auto text = errc_text_of(result, Errc::timed_out);
  CHECK(has(text, "make_buffer_for"));
  CHECK(has(text, "100 bytes"));
  CHECK(has(text, std::to_string(rig.arena.capacity()) + " in flight"));
}

TEST_CASE("a block that several streams use is free when the last of them is done") {
  const Rig rig;
  const Stream a(rig.device), b(rig.device), c(rig.device);
  DeviceBuffer<std::byte> to_a(a, rig.arena.capacity()), to_b(b, rig.arena.capacity()), to_c(c, rig.arena.capacity());
  {
    const auto buffer = rig.heap.make_buffer<std::byte>(rig.arena.capacity());
    buffer.async_to_device(a, to_a.span());
    buffer.async_to_device(b, to_b.span());
    buffer.async_to_device(c, to_c.span());
  }
  for (const Stream* stream : {&c, &a, &b}) {
    CHECK(!rig.all_free());
    rig.sim().step(*stream, 100);
  }
  CHECK(rig.all_free());
}

TEST_CASE("one buffer copied for ever in one stream needs a bounded number of events") {
  const Rig rig;
  const Stream stream(rig.device);
  DeviceBuffer<std::byte> target(stream, 1 * KiB);
  const auto buffer = rig.heap.make_buffer<std::byte>(1 * KiB);
  for (int i = 0; i != 10'000; ++i) {
    buffer.async_to_device(stream, target.span());
    if (i % 16 == 0) rig.sim().run_all();
    REQUIRE(rig.sim().live_events() <= detail::EventStock::full + 200);
  }
}

TEST_CASE("a buffer used by ever new streams, each of which finishes, needs a bounded number of events") {
  for (const bool device_writes : {false, true}) {
    const Rig rig;
    const Stream home(rig.device);
    const auto source = rig.heap.make_buffer<std::byte>(1 * KiB, std::byte{3}).async_to_device(home);
    rig.settle(home);
    auto buffer = rig.heap.make_buffer<std::byte>(1 * KiB);
    for (int i = 0; i != 2'000; ++i) {
      const Stream stream(rig.device);
      if (device_writes)
        buffer.async_from_device(stream, source.span());
      else
        (void)buffer.async_to_device(stream);
      rig.sim().run_all();
      REQUIRE(rig.sim().live_events() <= detail::EventStock::full + 200);
    }
    rig.sim().run_all();
    CHECK(buffer.try_borrow_mut().has_value());
  }
}

TEST_CASE("blocks that were dropped in another order come back in the order of their copies") {
  constexpr std::size_t count = 23;
  const Rig rig;
  const Stream stream(rig.device);
  DeviceBuffer<std::byte> target(stream, 4 * KiB);
  rig.settle(stream);
  (void)rig.heap.collect();
  std::vector<std::optional<Bytes>> buffers;
  std::vector<Event> events;
  for (std::size_t i = 0; i != count; ++i) {
    buffers.emplace_back(rig.heap.make_buffer<std::byte>(4 * KiB))->async_to_device(stream, target.span());
    events.push_back(stream.record());
  }
  for (std::size_t i = 0; i != count; ++i) buffers[i * 7 % count].reset();
  for (std::size_t i = 0; i != count; ++i) {
    CHECK(rig.heap.stats().in_flight == (count - i) * 4 * KiB);
    CHECK(rig.sim().step(stream, 2) == 2);
    CHECK(rig.heap.collect() == 1);
  }
  CHECK(rig.all_free());
}

TEST_CASE("a block that is dropped late, of an early copy, does not wait for those that were dropped before it") {
  const Rig rig;
  const Stream stream(rig.device);
  DeviceBuffer<std::byte> target(stream, 4 * KiB);
  auto early = std::make_optional(rig.heap.make_buffer<std::byte>(4 * KiB));
  early->async_to_device(stream, target.span());
  rig.settle(stream);
  rig.heap.make_buffer<std::byte>(4 * KiB).async_to_device(stream, target.span());
  CHECK(rig.heap.collect() == 0);  // the later one is in the queue
  early.reset();
  (void)rig.heap.collect();
  CHECK(rig.heap.stats().in_flight == 4 * KiB);
  rig.sim().run_all();
  CHECK(rig.heap.collect() == 1);
  CHECK(rig.all_free());
}
