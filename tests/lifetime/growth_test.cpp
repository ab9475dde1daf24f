// What has ended leaves nothing behind, and what is unfinished makes nothing else dearer: counted, where the benchmarks
// measure. The simulated device counts; a GPU does not.

#include <memory>
#include <vector>

#include "../support/allocations.hpp"
#include "../support/rig.hpp"
#include "streams/stream_registry.hpp"

using namespace support;

namespace {

constexpr std::size_t bytes = 1 * KiB;

/// Calls of the device that use what thole keeps of streams and events.
std::size_t calls(const Rig& rig) {
  std::size_t sum = 0;
  for (const auto call : {SimulatedCall::create_event, SimulatedCall::record_event, SimulatedCall::query_event,
                          SimulatedCall::wait_event, SimulatedCall::capture_info, SimulatedCall::stream_id})
    sum += rig.calls(call);
  return sum;
}

}  // namespace

TEST_CASE(
    "a buffer that 16,000 streams use one after the other needs no more "
    "than the first ones did") {
  for (const bool device_writes : {false, true}) {
    const Rig rig;
    const Stream home(rig.device);
    const auto source = rig.heap.make_buffer<std::byte>(bytes, std::byte{3}).async_to_device(home);
    rig.settle(home);
    auto buffer = rig.heap.make_buffer<std::byte>(bytes);
    std::vector<std::weak_ptr<detail::Timeline>> timelines;
    timelines.reserve(16'000);
    const auto rounds = [&](int count) {
      for (int i = 0; i != count; ++i) {
        const Stream stream(rig.device);
        timelines.push_back(detail::HandleAccess::shared(stream));
        if (device_writes)
          buffer.async_from_device(stream, source.span());
        else
          (void)buffer.async_to_device(stream);
        rig.sim().run_all();
      }
    };
    rounds(1'000);
    rig.until_tidy();
    const auto objects = live_allocations();
    const auto records = rig.arena.stats().bookkeeping;  // of uses, too
    const auto events = rig.sim().live_events();
    auto before = calls(rig);
    rounds(1'000);
    const auto early = calls(rig) - before;
    rounds(13'000);
    before = calls(rig);
    rounds(1'000);
    CHECK(calls(rig) - before <= early + early / 10);
    rig.until_tidy();
    CHECK(rig.sim().live_events() <= events + 64);
    std::erase_if(timelines, [](const auto& timeline) { return timeline.expired(); });  // which kept their memory
    CHECK(timelines.size() <= 16);
    CHECK(live_allocations() <= objects + 1'000);
    CHECK(rig.arena.stats().bookkeeping <= records + 64 * KiB);
    rig.settle(home);
    CHECK(buffer.try_borrow_mut().has_value());
  }
}

TEST_CASE("streams that have ended leave nothing behind, however many there were") {
  const Rig rig;
  const auto rounds = [&](int count) {
    for (int i = 0; i != count; ++i) {
      const Stream stream(rig.device);
      (void)rig.heap.make_buffer<std::byte>(bytes).async_to_device(stream);
      rig.sim().run_all();
      (void)rig.heap.collect();
    }
  };
  rounds(500);
  rig.until_tidy();
  const auto objects = live_allocations();
  const auto records = rig.arena.stats().bookkeeping;
  const auto events = rig.sim().live_events();
  rounds(5'000);
  rig.until_tidy();
  CHECK(live_allocations() <= objects + 500);
  CHECK(rig.arena.stats().bookkeeping <= records + 64 * KiB);
  CHECK(rig.sim().live_events() <= events + 64);
}

TEST_CASE(
    "a stream beside 2,000 unfinished ones makes the calls of one beside "
    "none") {
  const Rig rig(stepped(), {.bytes = 4 * MiB});
  const auto use = [&](std::vector<DeviceBuffer<std::byte>>& kept) {
    Stream stream(rig.device);
    kept.push_back(rig.heap.make_buffer<std::byte>(64).async_to_device(stream));
    return stream;
  };
  std::vector<DeviceBuffer<std::byte>> kept;
  std::vector<Stream> streams;
  auto before = calls(rig);
  streams.push_back(use(kept));
  const auto alone = calls(rig) - before;
  for (int i = 0; i != 2'000; ++i) streams.push_back(use(kept));
  before = calls(rig);
  streams.push_back(use(kept));
  CHECK(calls(rig) - before <= alone);
}

TEST_CASE("20,000 streams with unfinished work are made and used in as many steps as ten times 2,000 are") {
  const Rig rig(stepped(), {.bytes = 4 * MiB});
  const auto& registry = *detail::HandleAccess::core(rig.device)->streams;
  std::vector<Stream> streams;
  streams.reserve(22'000);
  struct Cost {
    std::size_t steps, calls, objects;
  };
  const auto cost = [&] { return Cost{registry.looked_at(), calls(rig), live_allocations()}; };
  const auto make = [&](std::size_t count) {
    const Cost before = cost();
    for (std::size_t i = 0; i != count; ++i) {
      streams.emplace_back(rig.device);
      rig.heap.make_buffer<std::byte>(64).use_on(streams.back(), Access::device_reads,
                                                 [](const std::byte*, NativeStream) {});
    }
    const Cost after = cost();
    return Cost{after.steps - before.steps, after.calls - before.calls, after.objects - before.objects};
  };
  const Cost few = make(2'000), many = make(20'000);
  CHECK(few.steps <= 3 * 2'000);
  CHECK(many.steps <= 3 * 20'000);
  CHECK(many.calls <= 11 * few.calls);
  CHECK(many.objects <= 11 * few.objects);
  // A view of one that captures is found by its handle.
  const auto looks = registry.looked_at();
  rig.sim().begin_capture(streams.back());
  CHECK(detail::unwrap(detail::stream_from_native(rig.device, streams.back().native())) == streams.back());
  (void)rig.sim().end_capture(streams.back());
  CHECK(registry.looked_at() == looks);
  // One look at all of them takes a step each.
  const auto before = registry.looked_at();
  CHECK(rig.heap.collect() == 0);
  CHECK(registry.looked_at() - before <= 2 * streams.size());
  rig.sim().lose_device();  // all of it goes at once
}

TEST_CASE("collecting many blocks from one stream takes few questions") {
  const Rig rig(stepped(), {.bytes = 8 * MiB});
  const Stream stream(rig.device);
  DeviceBuffer<std::byte> target(stream, 64);
  for (int i = 0; i != 16'000; ++i) rig.heap.make_buffer<std::byte>(64).async_to_device(stream, target.span());
  (void)stream.native();
  (void)rig.heap.collect();
  const auto stuck = rig.calls(SimulatedCall::query_event);
  CHECK(rig.heap.collect() == 0);
  CHECK(rig.calls(SimulatedCall::query_event) <= stuck + 2);
  rig.sim().run_all();
  const auto before = rig.calls(SimulatedCall::query_event);
  CHECK(rig.heap.collect() == 16'000);
  CHECK(rig.calls(SimulatedCall::query_event) <= before + 4);
}
