// Rule 8, two devices in one process, that run by themselves: simulated ones, and two GPUs where the machine has them
// and THOLE_DEVICE asks for GPUs. order_test.cpp steps the simulated ones.

#include <cstdlib>
#include <string_view>
#include <utility>
#include <vector>

#include "../support/rig.hpp"

using namespace support;

namespace {

constexpr std::size_t bytes = 256 * KiB;

struct Pair {
  Device near, far;  // the arena's device, and the other
};

std::vector<Pair> pairs() {
  std::vector<Pair> found{{Device::simulated(), Device::simulated()}};
  const char* const asked = std::getenv("THOLE_DEVICE");
  if (asked == nullptr || !std::string_view(asked).starts_with("cuda")) return found;
  if (const auto second = Device::try_cuda(1)) {
    found.push_back({Device::cuda(0), *second});
    found.push_back({*second, Device::cuda(0)});
  } else {
    MESSAGE("this machine has no second GPU: " << second.error().what());
  }
  return found;
}

/// What the device memory holds, seen from a stream of its device.
bool holds(const PinnedHeap& heap, const StreamRef& stream, const DeviceBuffer<std::byte>& memory, int value) {
  return all_are(memory.async_to_host(stream, heap), value);
}

}  // namespace

TEST_CASE("a buffer is copied to and from a device that is not its arena's") {
  for (const auto& [near, far] : pairs()) {
    const PinnedHeap heap(PinnedArena(near, {.bytes = 8 * MiB}));
    const Stream stream(far);
    const auto there = heap.make_buffer<std::byte>(bytes, std::byte{3}).async_to_device(stream);
    auto back = heap.make_buffer<std::byte>(bytes);
    back.async_from_device(stream, there.span());
    CHECK(all_are(back, 3));
  }
}

TEST_CASE("what one device writes, the other reads afterwards, and the program does not wait in between") {
  for (const auto& [near, far] : pairs()) {
    const PinnedHeap heap(PinnedArena(near, {.bytes = 8 * MiB}));
    const Stream writer(far), reader(near);
    DeviceBuffer<std::byte> source(writer, bytes), target(reader, bytes);
    auto buffer = heap.make_buffer<std::byte>(bytes);
    for (int value = 1; value != 20; ++value) {
      heap.make_buffer<std::byte>(bytes, std::byte(value)).async_to_device(writer, source.span());
      buffer.async_from_device(writer, source.span());  // after the reader's copy of the last round
      buffer.async_to_device(reader, target.span());
      CHECK(holds(heap, reader, target, value));
    }
  }
}

TEST_CASE("a buffer dropped while both devices read it is free when both are done") {
  for (const auto& [near, far] : pairs()) {
    const PinnedArena arena(near, {.bytes = 2 * MiB});
    const PinnedHeap heap(arena);
    const Stream one(near), other(far);
    DeviceBuffer<std::byte> first(one, MiB), second(other, MiB);
    for (int round = 1; round != 50; ++round) {
      const auto buffer = heap.make_buffer<std::byte>(MiB, std::byte(round));
      buffer.async_to_device(one, first.span());
      buffer.async_to_device(other, second.span());
      if (round % 2 == 0) heap.drain();
    }
    heap.drain();
    CHECK(heap.try_make_buffer<std::byte>(arena.capacity()).has_value());
    const PinnedHeap results(PinnedArena(far, {.bytes = 4 * MiB}));
    CHECK(holds(results, one, first, 49));
    CHECK(holds(results, other, second, 49));
  }
}

TEST_CASE("one buffer goes to both devices, by an upload thread for each, round after round") {
  for (const auto& [near, far] : pairs()) {
    const PinnedArena arena(near, {.bytes = 2 * MiB});
    const PinnedHeap heap(arena), results(PinnedArena(far, {.bytes = 4 * MiB}));
    const Stream one(near), other(far);
    DeviceBuffer<std::byte> first(one, MiB), second(other, MiB);
    for (int round = 1; round != 20; ++round) {
      auto buffer = heap.make_buffer<std::byte>(MiB, std::byte(0));
      for (const int value : {round, round + 100}) {
        fill(buffer, value);  // waits for what both devices read
        const auto upload = [&](const Stream& stream, DeviceBuffer<std::byte>& memory) {
          return std::thread([&] {
            std::as_const(buffer).async_to_device(stream, memory.span());
            (void)std::as_const(buffer).async_to_device(stream);
            CHECK(all_are(buffer, value));
          });
        };
        auto to_near = upload(one, first), to_far = upload(other, second);
        to_near.join();
        to_far.join();
      }
      buffer = {};
      CHECK(holds(results, one, first, round + 100));
      CHECK(holds(results, other, second, round + 100));
    }
    heap.drain();
    CHECK(heap.try_make_buffer<std::byte>(arena.capacity()).has_value());
  }
}

TEST_CASE("a buffer that another thread copies to its device in the middle of a copy to this one waits for both") {
  using During = void (Simulation::*)(SimulatedCall, std::function<void()>);
  for (const During during : {&Simulation::before_call, &Simulation::after_call})
    for (const bool near_first : {false, true}) {
      const Rig near, far;
      const Stream one(near.device), other(far.device);
      DeviceBuffer<std::byte> first(one, MiB), second(other, MiB);
      auto buffer = near.heap.make_buffer<std::byte>(MiB, std::byte{7});
      auto sim = near.sim();
      (sim.*during)(SimulatedCall::copy,
                    [&] { std::thread([&] { buffer.async_to_device(other, second.span()); }).join(); });
      buffer.async_to_device(one, first.span());
      const auto& early = near_first ? near : far;
      const auto& late = near_first ? far : near;
      early.sim().run_all();
      errc_text_of(buffer.try_borrow_mut(), Errc::in_flight);
      buffer = {};
      (void)near.heap.collect();
      CHECK(!near.all_free());
      late.sim().run_all();
      CHECK(near.all_free());
      CHECK(device_holds(near, one, first, 7));
      CHECK(device_holds(far, other, second, 7));
    }
}

TEST_CASE("device memory of one device is refused in a stream of the other, and nothing is lost") {
  for (const auto& [near, far] : pairs()) {
    const PinnedHeap heap(PinnedArena(near, {.bytes = MiB}));
    const Stream stream(near), other(far);
    DeviceBuffer<std::byte> target(stream, bytes);
    auto buffer = heap.make_buffer<std::byte>(bytes, std::byte{9});
    errc_text([&] { buffer.async_to_device(other, target.span()); }, Errc::wrong_device);
    errc_text([&] { buffer.async_from_device(other, target.span()); }, Errc::wrong_device);
    buffer.async_to_device(stream, target.span());
    CHECK(holds(heap, stream, target, 9));
  }
}

TEST_CASE("the handles of two devices end in any order, with copies in flight on both") {
  for (const bool heap_first : {true, false})
    for (const auto& [near, far] : pairs()) {
      auto heap = std::make_unique<PinnedHeap>(PinnedArena(near, {.bytes = 4 * MiB}));
      auto one = std::make_unique<Stream>(near), other = std::make_unique<Stream>(far);
      auto first = std::make_unique<DeviceBuffer<std::byte>>(*one, MiB);
      auto second = std::make_unique<DeviceBuffer<std::byte>>(*other, MiB);
      auto buffer = std::make_unique<PinnedBuffer<std::byte>>(heap->make_buffer<std::byte>(MiB, std::byte{1}));
      buffer->async_to_device(*one, first->span());
      buffer->async_to_device(*other, second->span());
      if (heap_first) heap.reset();
      other.reset();
      second.reset();
      buffer.reset();
      std::thread([&] { first.reset(); }).join();
      one.reset();
      heap.reset();
    }
}
