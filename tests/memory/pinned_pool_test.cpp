// Regions that no arena has stay pinned, and serve the next one.

#include <sys/wait.h>
#include <unistd.h>

#include <optional>
#include <string>

#include <thole/thole.hpp>

#include "fixture.hpp"

using namespace memory_test;

namespace {

/// A device that runs by itself, with a stream that never does what it has, so that unpinning would never return.
struct Stuck {
  Stuck() {
    simulation.hold(stream);
    stream.launch_host_function([] {});
  }
  ~Stuck() { simulation.release(stream); }
  std::size_t unpinned() const {
    return simulation.calls(SimulatedCall::unregister_host) + simulation.calls(SimulatedCall::free_host);
  }

  Device device = Device::simulated();
  Simulation simulation = device.simulation();
  Stream stream{device};
};

const std::byte* start_of(Store& store) { return store.spans().front().data; }

}  // namespace

TEST_CASE("beside a stream that is stuck for ever arenas come and go, and nothing is unpinned") {
  for (const PinMethod pin : {PinMethod::register_pages, PinMethod::host_alloc}) {
    Stuck stuck;
    const Stream other(stuck.device);
    for (int round = 0; round < 20; ++round) {
      const PinnedHeap heap(PinnedArena(stuck.device, {.bytes = MiB, .max_bytes = 100 * MiB, .pin_method = pin}));
      const auto there = heap.make_buffer<std::byte>(900 * KiB, std::byte{1}).async_to_device(other);
      CHECK(heap.try_make_buffer<std::byte>(40 * MiB));
      CHECK(heap.try_make_buffer<std::byte>(90 * MiB));  // the region of 40 MiB makes way
      other.synchronize();
    }
    CHECK(PinnedArena::try_make(stuck.device, {.bytes = 3 * MiB, .pin_method = pin}));
    CHECK(stuck.unpinned() == 0);
    CHECK(stuck.simulation.arena_bytes() == 0);
    CHECK(stuck.device.kept_pinned() == stuck.simulation.pinned_bytes());
  }
}

TEST_CASE("what is let go stays pinned and serves the next arena that is pinned in the same way, as a whole region") {
  const Machine machine;
  const std::byte* first = nullptr;
  {
    const OpenStore store(machine, 10 * MiB);
    first = start_of(*store);
  }
  CHECK(kept_bytes(*machine.backend) == 10 * MiB);
  CHECK(bytes_in_use(*machine.backend) == 0);
  const std::size_t registered = machine.controls.calls(SimulatedCall::register_host);
  {
    const OpenStore same(machine, 10 * MiB);
    CHECK(start_of(*same) == first);
    CHECK(kept_bytes(*machine.backend) == 0);
    CHECK(bytes_in_use(*machine.backend) == 10 * MiB);
  }
  {
    const OpenStore half(machine, 5 * MiB);
    CHECK(start_of(*half) == first);
    CHECK(half->capacity() == 5 * MiB);  // the rest lies idle
    CHECK(bytes_in_use(*machine.backend) == 10 * MiB);
  }
  CHECK(machine.controls.calls(SimulatedCall::register_host) == registered);
  {
    const OpenStore less(machine, 5 * MiB - 4096);
    CHECK(start_of(*less) != first);
  }
  const OpenStore by_driver(machine, 10 * MiB, 0, PinMethod::host_alloc);
  CHECK(start_of(*by_driver) != first);
  auto dumped = Store::open(machine.device, {10 * MiB, 0, {.in_core_dumps = true}});
  REQUIRE(dumped);
  CHECK(start_of(**dumped) != first);
  (*dumped)->close();
  const Machine another;
  const OpenStore elsewhere(another, 10 * MiB);
  CHECK(start_of(*elsewhere) != first);
}

TEST_CASE("the smallest of the regions that fit is taken") {
  const Machine machine;
  const std::byte* middle = nullptr;
  {
    const OpenStore large(machine, 16 * MiB), fits(machine, 11 * MiB), small(machine, 9 * MiB);
    middle = start_of(*fits);
  }
  const OpenStore store(machine, 10 * MiB);
  CHECK(start_of(*store) == middle);
}

TEST_CASE("where no more can be pinned a far larger region serves, and a larger arena has the kept ones unpinned") {
  const Device device = Device::simulated({.max_pinned_bytes = 20 * MiB});
  const Simulation simulation = device.simulation();
  { const PinnedArena first(device, {.bytes = 12 * MiB}); }
  {
    const auto second = PinnedArena::try_make(device, {.bytes = 2 * MiB});  // 8 MiB are left
    REQUIRE(second);
    const auto third = PinnedArena::try_make(device, {.bytes = 5 * MiB});
    const auto fourth = PinnedArena::try_make(device, {.bytes = 2 * MiB});  // that of 12 MiB
    REQUIRE(fourth);
    CHECK(simulation.arena_bytes() == 19 * MiB);
    CHECK(fourth->capacity() == 2 * MiB);
  }
  CHECK(simulation.calls(SimulatedCall::unregister_host) == 0);
  const auto refused = PinnedArena::try_make(device, {.bytes = 14 * MiB});  // which never waits
  REQUIRE_FALSE(refused);
  CHECK(refused.error().errc() == Errc::limit);
  CHECK(std::string(refused.error().what()).find("19922944 bytes (19 MiB) stay pinned for later arenas") !=
        std::string::npos);
  const PinnedArena made(device, {.bytes = 14 * MiB});
  CHECK(simulation.pinned_bytes() == 14 * MiB);
  CHECK(device.kept_pinned() == 0);
}

TEST_CASE("growth that meets a limit says what is kept, and trim_pinned makes room for it") {
  Device device = Device::simulated({.max_pinned_bytes = 64 * MiB});
  { const PinnedArena first(device, {.bytes = 40 * MiB}); }
  const PinnedHeap heap(PinnedArena(device, {.bytes = MiB, .max_bytes = 61 * MiB}));
  CHECK(device.simulation().pinned_bytes() == 41 * MiB);
  const auto refused = heap.try_make_buffer<std::byte>(60 * MiB);
  REQUIRE_FALSE(refused);
  CHECK(std::string(refused.error().what()).find("Device::trim_pinned") != std::string::npos);
  CHECK(device.trim_pinned() == 40 * MiB);
  CHECK(device.trim_pinned() == 0);
  CHECK(heap.try_make_buffer<std::byte>(60 * MiB));
}

TEST_CASE("at most twice as much is kept as arenas had at once, or as the program says, when the next one is pinned") {
  Device device = Device::simulated();
  for (const std::size_t bytes : {4 * MiB, 5 * MiB, 6 * MiB, 7 * MiB})
    const PinnedArena arena(device, {.bytes = bytes});
  CHECK(device.kept_pinned() == (5 + 6 + 7) * MiB);  // the first to be let go was the first to go: 14 MiB may be kept
  device.keep_pinned(13 * MiB);
  { const PinnedArena arena(device, {.bytes = MiB}); }
  CHECK(device.kept_pinned() == (5 + 6 + 7) * MiB);  // one of these served, though it is far larger
  {
    const PinnedArena arena(device, {.bytes = 8 * MiB});
    CHECK(device.kept_pinned() <= 13 * MiB);
  }
  device.keep_pinned(0);
  const PinnedArena arena(device, {.bytes = 9 * MiB});
  CHECK(device.kept_pinned() == 0);
}

TEST_CASE("what a device keeps ends with it, and its addresses serve others") {
  const Machine other;
  for (const std::size_t bytes : {MiB, 256 * MiB}) {
    const std::byte* place = nullptr;
    {
      const Machine machine;
      const OpenStore store(machine, bytes);
      place = start_of(*store);
    }
    const OpenStore store(other, bytes);
    if (bytes > MiB) CHECK(start_of(*store) == place);  // a parked range
    CHECK(other.controls.pinned_bytes() >= bytes);
  }
}

TEST_CASE("a lost device keeps nothing for anybody") {
  Machine machine;
  { const OpenStore store(machine, MiB); }
  machine.controls.lose_device();
  StreamHandle stream = nullptr;
  (void)machine.device->note(machine.backend->create_stream(&stream));  // so that thole knows of it
  const auto refused = Store::open(machine.device, {MiB, 0, {}});
  REQUIRE_FALSE(refused);
  CHECK(refused.error().errc() == Errc::device_lost);
  CHECK(machine.pinned() == 0);
}

TEST_CASE("a forked child has none of what its parent keeps") {
  const Machine machine;
  { const OpenStore store(machine, 256 * MiB); }
  const pid_t child = fork();
  if (child == 0) {
    const bool unknown = kept_bytes(*machine.backend) == 256 * MiB;  // the parent's book, which the child leaves alone
    const Machine own;
    const OpenStore store(own, 8 * MiB);
    Block* const block = take(*store, 1000, 64);
    block->data[0] = std::byte{1};
    give(*store, block);
    _exit(unknown && own.controls.pinned_bytes() == 8 * MiB ? 0 : 1);
  }
  int state = 0;
  REQUIRE(waitpid(child, &state, 0) == child);
  CHECK(state == 0);
  const OpenStore again(machine, 256 * MiB);
  CHECK(kept_bytes(*machine.backend) == 0);
}
