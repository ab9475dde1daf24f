// Regions that no arena has stay pinned, and serve the next one. What makes a limit on pinned memory, counts calls,
// ends or loses a device, or forks is of the simulated device alone: a GPU has no such limit, is there until the
// process ends, and cannot be used in a forked child.

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <future>
#include <optional>
#include <string>

#include <thole/thole.hpp>

#include "base/host_function.hpp"
#include "base/limits.hpp"
#include "fixture.hpp"
#include "support/rig.hpp"
#include "system_files.hpp"

using namespace memory_test;
using support::Gate, support::Rig, support::running_under_test, support::under_test;

namespace {

/// A device that runs by itself and keeps nothing, with a stream that does not do what it has: who unpins waits for it.
struct Stuck {
  Stuck() { Device(rig.device).trim_pinned(); }
  /// Where something waits for the stream all the same, it is let go, so that the test fails and comes to its end.
  template <class F>
  void beside(F&& f) {
    Gate gate(rig, stream);
    stream.launch_host_function([] {});
    auto done = std::async(std::launch::async, std::forward<F>(f));
    CHECK(done.wait_for(std::chrono::seconds(60)) == std::future_status::ready);
    gate.open();
    done.get();
  }

  Rig rig{running_under_test()};
  Stream stream{rig.device};
};

/// What the device under test keeps for later arenas, from nothing on.
struct Keeper {
  Keeper() { (void)unpin_kept(*core->backend); }
  std::size_t kept() const { return kept_bytes(*core->backend); }
  std::size_t in_use() const { return bytes_in_use(*core->backend) - others; }

  const Device device = under_test();
  const std::shared_ptr<DeviceCore> core = HandleAccess::core(device);
  const std::size_t others = bytes_in_use(*core->backend);
};

const std::byte* start_of(Store& store) { return store.spans().front().data; }

}  // namespace

TEST_CASE("beside a stream that is stuck for ever arenas come and go, and nothing is unpinned") {
  for (const PinMethod pin : {PinMethod::register_pages, PinMethod::host_alloc}) {
    Stuck stuck;
    const Rig& rig = stuck.rig;
    const Stream other(rig.device);
    std::size_t most = 0;
    stuck.beside([&] {
      for (int round = 0; round < 20; ++round) {
        const PinnedHeap heap(PinnedArena(rig.device, {.bytes = MiB, .max_bytes = 100 * MiB, .pin_method = pin}));
        const auto there = heap.make_buffer<std::byte>(900 * KiB, std::byte{1}).async_to_device(other);
        CHECK(heap.try_make_buffer<std::byte>(40 * MiB));
        CHECK(heap.try_make_buffer<std::byte>(90 * MiB));  // the region of 40 MiB makes way
        other.synchronize();
        const std::size_t pinned = rig.device.kept_pinned() + heap.arena().capacity();
        CHECK(pinned >= most);
        most = pinned;
      }
      CHECK(PinnedArena::try_make(rig.device, {.bytes = 3 * MiB, .pin_method = pin}));
      CHECK(rig.device.kept_pinned() >= most);
    });
    CHECK(most >= 131 * MiB);
    if (!rig.simulated()) continue;
    CHECK(rig.calls(SimulatedCall::unregister_host) + rig.calls(SimulatedCall::free_host) == 0);
    CHECK(rig.sim().arena_bytes() == rig.arena.capacity());
    CHECK(rig.device.kept_pinned() == rig.sim().pinned_bytes() - rig.arena.capacity());
  }
}

TEST_CASE("what is let go stays pinned and serves the next arena that is pinned in the same way, as a whole region") {
  const Keeper keeper;
  const auto& core = keeper.core;
  const std::byte* first = nullptr;
  {
    const OpenStore store(core, 10 * MiB);
    first = start_of(*store);
  }
  CHECK(keeper.kept() == 10 * MiB);
  CHECK(keeper.in_use() == 0);
  const auto registered = [&] {
    return core->backend->simulated() ? keeper.device.simulation().calls(SimulatedCall::register_host) : 0;
  };
  const std::size_t before = registered();
  {
    const OpenStore same(core, 10 * MiB);
    CHECK(start_of(*same) == first);
    CHECK(keeper.kept() == 0);
    CHECK(keeper.in_use() == 10 * MiB);
  }
  {
    const OpenStore half(core, 5 * MiB);
    CHECK(start_of(*half) == first);
    CHECK(half->capacity() == 5 * MiB);  // the rest lies idle
    CHECK(keeper.in_use() == 10 * MiB);
  }
  CHECK(registered() == before);
  {
    const OpenStore less(core, 5 * MiB - 4096);
    CHECK(start_of(*less) != first);
  }
  const OpenStore by_driver(core, 10 * MiB, 0, PinMethod::host_alloc);
  CHECK(start_of(*by_driver) != first);
  auto dumped = Store::open(core, {10 * MiB, 0, {.in_core_dumps = true}});
  REQUIRE(dumped);
  CHECK(start_of(**dumped) != first);
  (*dumped)->close();
  const Machine another;
  const OpenStore elsewhere(another, 10 * MiB);
  CHECK(start_of(*elsewhere) != first);
}

TEST_CASE("the smallest of the regions that fit is taken") {
  const Keeper keeper;
  const std::byte* middle = nullptr;
  {
    const OpenStore large(keeper.core, 16 * MiB), fits(keeper.core, 11 * MiB), small(keeper.core, 9 * MiB);
    middle = start_of(*fits);
  }
  const OpenStore store(keeper.core, 10 * MiB);
  CHECK(start_of(*store) == middle);
}

TEST_CASE("where no more can be pinned a far larger region serves, and a larger arena has the kept ones unpinned") {
  const Keeper nothing_kept_by_others;  // of which the error would tell, too
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

TEST_CASE("an arena that meets a limit while another thread unpins waits for that where it may wait") {
  const Device device = Device::simulated({.max_pinned_bytes = 64 * MiB});
  Simulation simulation = device.simulation();
  { const PinnedArena first(device, {.bytes = 48 * MiB}); }
  // The next are pinned in another way, so that the first one's memory does not serve.
  const ArenaOptions options{.bytes = 24 * MiB, .in_core_dumps = true};
  std::atomic<bool> refused{false};
  std::future<std::size_t> made;
  simulation.before_call(SimulatedCall::unregister_host, [&] {
    CHECK_FALSE(PinnedArena::try_make(device, options));
    {  // else running work would wait for who waits for running work
      const InHostFunction in_host_function;
      const System full;
      full.write("sys/fs/cgroup/memory.max", std::to_string(200 * MiB));
      full.write("sys/fs/cgroup/memory.current", std::to_string(199 * MiB));
      const MachineRoot root(full.root);
      CHECK(says(support::errc_text([&] { (void)PinnedArena(device, options); }, Errc::limit), "memory.max"));
    }
    simulation.after_call(SimulatedCall::register_host, [&] { refused = true; });
    made = std::async(std::launch::async, [&] { return PinnedArena(device, options).capacity(); });
    support::until([&] { return refused.load(); });
  });
  const PinnedArena second(device, {.bytes = 32 * MiB, .in_core_dumps = true});
  std::size_t capacity = 0;
  CHECK_NOTHROW(capacity = made.get());
  CHECK(capacity == 24 * MiB);
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

TEST_CASE("at most twice as much is kept as arenas had at once, when the next one is pinned") {
  const Device device = Device::simulated();
  for (const std::size_t bytes : {4 * MiB, 5 * MiB, 6 * MiB, 7 * MiB})
    const PinnedArena arena(device, {.bytes = bytes});
  CHECK(device.kept_pinned() == (5 + 6 + 7) * MiB);  // the first to be let go was the first to go: 14 MiB may be kept
}

TEST_CASE(
    "at most as much is kept as the program says, when the next arena is pinned that finds nothing large enough") {
  struct Limited : Keeper {
    ~Limited() { Device(device).keep_pinned(SIZE_MAX); }  // a GPU serves other tests, too
  } limited;
  Device device = limited.device;
  {
    const PinnedArena first(device, {.bytes = 5 * MiB}), second(device, {.bytes = 6 * MiB}),
        third(device, {.bytes = 7 * MiB});
  }
  CHECK(device.kept_pinned() == (5 + 6 + 7) * MiB);
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

TEST_CASE("what is kept is unpinned where the program says so, and how much that was is told") {
  const Keeper keeper;
  Device device = keeper.device;
  { const PinnedArena first(device, {.bytes = 3 * MiB}), second(device, {.bytes = 2 * MiB}); }
  CHECK(device.kept_pinned() == 5 * MiB);
  CHECK(device.trim_pinned() == 5 * MiB);
  CHECK(device.kept_pinned() == 0);
  CHECK(device.trim_pinned() == 0);
  const PinnedArena arena(device, {.bytes = 2 * MiB});  // which is pinned anew
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
