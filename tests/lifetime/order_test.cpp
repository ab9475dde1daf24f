// Rule 8: handles may go in any order, on any thread, also on one that is ending; nothing is lost and nothing is early.
// What happens at the end of the process is in endings.cpp. Where a device ends with its handles, or one of two is
// stepped, it is simulated.

#include <algorithm>
#include <array>
#include <functional>
#include <numeric>
#include <optional>
#include <random>
#include <vector>

#include "../support/rig.hpp"
#include "memory/pinned_pool.hpp"

using namespace support;

namespace {

using Bytes = PinnedBuffer<std::byte>;

/// One handle of each kind, with copies in flight between them.
struct World {
  explicit World(const Device& on)
      : device(on), arena(std::in_place, on, ArenaOptions{.bytes = 256 * KiB}), heap(*arena), stream(on) {
    target.emplace(*stream, 16 * KiB);
    buffer = heap->make_buffer<std::byte>(16 * KiB, std::byte{1});
    buffer->async_to_device(*stream, target->span());
    auto borrowed = heap->make_buffer<std::byte>(16 * KiB, std::byte{2});
    borrowed.async_to_device(*stream, target->span());
    borrow = borrowed.borrow();
    back = target->async_to_host(*stream, *heap);
    event = stream->record();
  }

  static constexpr std::size_t handles = 9;
  void drop(std::size_t which) {
    const std::array<std::function<void()>, handles> drops{
        [&] { device.reset(); }, [&] { arena.reset(); },  [&] { heap.reset(); },
        [&] { stream.reset(); }, [&] { target.reset(); }, [&] { buffer.reset(); },
        [&] { borrow.reset(); }, [&] { back.reset(); },   [&] { event.reset(); }};
    drops.at(which)();
  }
  void drop_all() {
    for (std::size_t i = 0; i != handles; ++i) drop(i);
  }

  std::optional<Device> device;
  std::optional<PinnedArena> arena;
  std::optional<PinnedHeap> heap;
  std::optional<Stream> stream;
  std::optional<DeviceBuffer<std::byte>> target;
  std::optional<Bytes> buffer, back;
  std::optional<Borrow<std::byte>> borrow;
  std::optional<Event> event;
};

using Order = std::array<std::size_t, World::handles>;

Order straight() {
  Order order{};
  std::iota(order.begin(), order.end(), std::size_t{0});
  return order;
}

/// Nothing of what was made on the device is left.
void nothing_is_left(Simulation sim) {
  until([&] {
    sim.run_all();
    return sim.arena_bytes() == 0 && sim.device_bytes() == 0;
  });
}

std::size_t arena_bytes(const Rig& rig) { return detail::bytes_in_use(rig.backend()); }

/// As that, for the device of a rig, whose arenas had so many bytes before. A GPU does not say what device memory is
/// left.
void nothing_is_left(const Rig& rig, std::size_t before) {
  until([&] {
    if (rig.simulated()) rig.sim().run_all();
    (void)rig.heap.collect();
    return arena_bytes(rig) <= before && (!rig.simulated() || rig.sim().device_bytes() == 0);
  });
}

/// Runs the function when the thread that touched it ends.
struct AtThreadEnd {
  std::function<void()> run;
  ~AtThreadEnd() {
    if (run) run();
  }
};

}  // namespace

TEST_CASE("handles dropped in any order lose nothing") {
  // All orders of nine are too many: each handle in each place, and each pair in both orders, many times over.
  const int rounds = on_gpu() ? 100 : 500;
  std::mt19937_64 random(1);
  Order order = straight();
  for (int round = 0; round != rounds; ++round) {
    const Rig rig(under_test(static_cast<std::uint64_t>(round)), {.bytes = 4 * KiB});
    const std::size_t before = arena_bytes(rig);
    std::ranges::shuffle(order, random);
    World world(rig.device);
    const std::size_t early = random() % (World::handles + 1);
    for (std::size_t i = 0; i != World::handles; ++i) {
      if (i == early && rig.simulated()) rig.sim().run_all();
      world.drop(order.at(i));
    }
    nothing_is_left(rig, before);
    CHECK(!rig.device.lost());  // as a copy that finds its memory gone would have it
  }
}

TEST_CASE("the last handle of a device may go while its copies are in flight") {
  Order order = straight();
  for (std::size_t last = 0; last != World::handles; ++last) {
    std::ranges::rotate(order, order.begin() + 1);
    auto device = std::make_optional(stepped());
    auto sim = device->simulation();
    World world(*device);
    device.reset();
    for (const std::size_t which : order) world.drop(which);
    CHECK(sim.pending() != 0);
    CHECK(sim.arena_bytes() == 256 * KiB);  // what a copy still needs is there
    nothing_is_left(sim);
  }
}

TEST_CASE("each handle may be dropped on a thread of its own") {
  for (const bool by_itself : {false, true}) {
    const Rig rig(by_itself ? running_under_test() : stepped(), {.bytes = 4 * KiB});
    const std::size_t before = arena_bytes(rig);
    World world(rig.device);
    {
      std::vector<std::jthread> threads;
      for (std::size_t i = 0; i != World::handles; ++i) threads.emplace_back([&world, i] { world.drop(i); });
    }
    nothing_is_left(rig, before);
    CHECK(!rig.device.lost());
  }
}

TEST_CASE("a thread that is ending may drop, make, copy and borrow, before and after its caches are gone") {
  for (const bool caches_are_gone : {false, true}) {
    CAPTURE(caches_are_gone);
    const Rig rig(under_test(), {.bytes = 4 * KiB});
    const std::size_t before = arena_bytes(rig);
    auto heap = std::make_optional<PinnedHeap>(PinnedArena(rig.device, {.bytes = MiB}));
    bool ran = false;
    std::thread([&] {
      // A thread's objects are destroyed in the opposite order of their making, and caches are made on their first use.
      if (!caches_are_gone) (void)heap->make_buffer<std::byte>(1);
      thread_local AtThreadEnd end;
      end.run = [&ran, &heap, world = std::make_shared<World>(rig.device)] {
        auto late = heap->make_buffer<std::byte>(1000, std::byte{5});
        CHECK(late.borrow()[999] == std::byte{5});
        late.async_to_device(*world->stream, world->target->span());
        world->drop_all();
        ran = true;
      };
    }).join();
    CHECK(ran);
    if (rig.simulated()) CHECK(rig.sim().pending() != 0);
    until([&] {
      if (rig.simulated()) rig.sim().run_all();
      (void)rig.heap.collect();
      return heap->stats().in_flight == 0;
    });
    CHECK(heap->stats().in_use == 0);
    CHECK(heap->try_make_buffer<std::byte>(MiB).has_value());
    heap.reset();
    nothing_is_left(rig, before);
  }
}

TEST_CASE("a buffer that streams of two devices read is free when both are done, in either order") {
  for (const bool own_first : {true, false}) {
    CAPTURE(own_first);
    const Rig rig;
    const auto other = stepped();
    const Stream here(rig.device), there(other);
    const auto whole = rig.arena.capacity();
    DeviceBuffer<std::byte> one(here, whole), two(there, whole);
    {
      const auto buffer = rig.heap.make_buffer<std::byte>(whole, std::byte{6});
      buffer.async_to_device(here, one.span());
      buffer.async_to_device(there, two.span());
    }
    CHECK(!rig.all_free());
    (own_first ? rig.sim() : other.simulation()).run_all();
    CHECK(!rig.all_free());
    (own_first ? other.simulation() : rig.sim()).run_all();
    CHECK(rig.all_free());
    const PinnedHeap elsewhere(PinnedArena(other, {.bytes = whole}));
    const auto from_two = two.async_to_host(there, elsewhere);
    other.simulation().run_all();
    CHECK(all_are(from_two, 6));
  }
}

TEST_CASE("the other device may go first, with all its handles, while it reads the buffer") {
  const Rig rig;
  auto other = std::make_optional(stepped());
  auto sim = other->simulation();
  const auto whole = rig.arena.capacity();
  {
    const Stream there(*other);
    DeviceBuffer<std::byte> target(there, whole);
    rig.heap.make_buffer<std::byte>(whole).async_to_device(there, target.span());
  }
  other.reset();
  CHECK(!rig.all_free());
  sim.run_all();
  CHECK(!other.has_value());
  until([&] { return rig.all_free(); });
}

TEST_CASE("an arena whose handles are gone keeps its memory for the borrow that is left") {
  const auto device = stepped();
  auto sim = device.simulation();
  auto borrow =
      PinnedHeap(PinnedArena(device, {.bytes = 64 * KiB})).make_buffer<std::byte>(64 * KiB, std::byte{9}).borrow();
  CHECK(sim.arena_bytes() == 64 * KiB);
  CHECK(all_are(borrow.data(), borrow.size(), 9));
  { const auto gone = std::move(borrow); }
  CHECK(sim.arena_bytes() == 0);
}
