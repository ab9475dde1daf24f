// What the library's own thread does to arenas: it pins what is still to come, and unpins what has lain idle. Hooks of
// the simulated device say when that thread pins.

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/bytes.hpp"
#include "fixture.hpp"
#include "heap/allocate.hpp"
#include "heap/arena_core.hpp"
#include "heap/caretaker.hpp"
#include "heap/heap_core.hpp"
#include "support/child.hpp"
#include "support/rig.hpp"
#include "support/sanitized.hpp"

using namespace memory_test;
using support::errc_text;
using support::has;
using support::until;

namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

/// A clock that the test sets.
constexpr Clock::time_point at(std::chrono::nanoseconds time) { return Clock::time_point(24h + time); }

Store& open(const std::shared_ptr<DeviceCore>& device, const StoreOptions& options) {
  auto opened = Store::open(device, options);
  if (!opened) FAIL(opened.error().what());
  return **opened;
}

ArenaOptions in_pieces(std::size_t bytes, std::size_t piece, std::size_t max_bytes = 0) {
  return {.bytes = bytes, .max_bytes = max_bytes, .pin_in_background = true, .piece_bytes = piece};
}

/// Stops whoever pins before he does, until the test lets him go on.
class Turnstile {
 public:
  /// It is there once the device has pinned for the first time.
  explicit Turnstile(const Device& device) : simulation_(device.simulation()) {
    simulation_.after_call(SimulatedCall::register_host,
                           [self = self_, simulation = simulation_] { close(self, simulation); });
  }
  ~Turnstile() { open(); }
  Turnstile(const Turnstile&) = delete;
  Turnstile& operator=(const Turnstile&) = delete;

  void wait_for_somebody() const {
    until([this] { return self_->waits.load(); });
  }
  void let_one_pass() {
    self_->waits = false;
    close(self_, simulation_);
    self_->passed = true;
  }
  void open() {
    simulation_.before_call(SimulatedCall::register_host, nullptr);
    self_->passed = true;
  }

 private:
  struct State {
    std::atomic<bool> waits{false};
    std::atomic<bool> passed{false};
  };
  static void close(const std::shared_ptr<State>& self, Simulation simulation) {
    simulation.before_call(SimulatedCall::register_host, [self] {
      self->waits = true;
      until([&] { return self->passed.exchange(false); });
    });
  }
  Simulation simulation_;
  std::shared_ptr<State> self_ = std::make_shared<State>();
};

}  // namespace

// ---- Pinning in the background

TEST_CASE("an arena that is pinned in the background has its first piece at once, and serves while the rest comes") {
  const auto device = Device::simulated({.stepped = true});
  const auto simulation = device.simulation();
  Turnstile turnstile(device);
  const PinnedArena arena(device, in_pieces(4 * MiB, MiB));
  turnstile.wait_for_somebody();
  CHECK(arena.capacity() == MiB);
  CHECK(arena.stats().to_pin == 3 * MiB);
  const PinnedHeap heap(arena);
  auto first = heap.make_buffer<std::byte>(MiB);
  turnstile.let_one_pass();
  turnstile.wait_for_somebody();
  CHECK(arena.capacity() == 2 * MiB);
  auto second = heap.make_buffer<std::byte>(MiB);
  turnstile.open();
  until([&] { return arena.stats().to_pin == 0; });
  CHECK(arena.capacity() == 4 * MiB);
  CHECK(arena.stats().regions == 4);
  CHECK(arena.stats().grown == 0);
  CHECK(arena.stats().pinning_failed.empty());
  CHECK(arena.contains(first.unsynchronized_data()));
  CHECK(arena.contains(second.unsynchronized_data()));
}

TEST_CASE("who wants more than is pinned so far pins it himself, also in one piece that is larger") {
  const Machine machine;
  Store& store = open(machine.device, {.bytes = 4 * MiB, .max_bytes = 4 * MiB, .region = {}, .piece = MiB});
  CHECK(store.capacity() == MiB);
  CHECK(store.largest_possible() == 3 * MiB);
  CHECK(take(store, 2 * MiB, 64) == nullptr);
  REQUIRE(store.grow(2 * MiB, store.growths()));
  Block* const block = take(store, 2 * MiB, 64);
  REQUIRE(block != nullptr);
  while (store.pin_more()) {
  }
  CHECK(store.capacity() == 4 * MiB);
  CHECK(store.stats().to_pin == 0);
  give(store, block);
  store.close();
}

TEST_CASE("somebody who waits to grow finds what was pinned in the background meanwhile") {
  const Machine machine;
  Store& store = open(machine.device, {.bytes = 2 * MiB, .max_bytes = 64 * MiB, .region = {}, .piece = MiB});
  const auto seen = store.growths();
  CHECK_FALSE(store.pin_more());
  CHECK(store.capacity() == 2 * MiB);
  REQUIRE(store.grow(MiB, seen));
  CHECK(store.capacity() == 2 * MiB);
  CHECK(store.stats().grown == 0);
  store.close();
}

TEST_CASE("whoever looks while pieces are pinned never sees one that counts as growth") {
  const Machine machine;
  Store& store = open(machine.device, {.bytes = 4 * MiB, .max_bytes = 4 * MiB, .region = {}, .piece = 4 * KiB});
  std::atomic<bool> counted{false};
  std::vector<std::thread> threads;
  for (int i = 0; i != 3; ++i)
    threads.emplace_back([&] {
      for (StoreStats stats = store.stats(); stats.to_pin != 0; stats = store.stats())
        if (stats.grown != 0) counted = true;
    });
  while (store.pin_more()) {
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(!counted);
  store.close();
}

TEST_CASE("a limit that stops the pinning half-way leaves what there is, and stats and the device say why") {
  auto device = Device::simulated({.max_pinned_bytes = 5 * MiB / 2, .stepped = true});
  const PinnedArena arena(device, in_pieces(4 * MiB, MiB));
  until([&] { return !arena.stats().pinning_failed.empty(); });
  const ArenaStats stats = arena.stats();
  CHECK(stats.capacity == 2 * MiB);
  CHECK(stats.to_pin == 0);
  CHECK(has(stats.pinning_failed, std::to_string(MiB)));
  const auto error = device.take_error();
  REQUIRE(error);
  CHECK(error->errc() == Errc::limit);
  const PinnedHeap heap(arena);
  std::vector<PinnedBuffer<std::byte>> buffers;
  for (int i = 0; i != 2; ++i) buffers.push_back(heap.make_buffer<std::byte>(MiB));
  // Half a MiB may be pinned still.
  CHECK(heap.make_buffer<std::byte>(MiB / 2).size() == MiB / 2);
  CHECK_FALSE(heap.try_make_buffer<std::byte>(MiB));
}

TEST_CASE("dropping an arena never waits for a piece that is being pinned, and no more are pinned") {
  const auto device = Device::simulated({.stepped = true});
  const auto simulation = device.simulation();
  Turnstile turnstile(device);
  std::optional<PinnedArena> arena(std::in_place, device, in_pieces(8 * MiB, MiB));
  turnstile.wait_for_somebody();
  arena.reset();
  turnstile.open();
  until([&] { return simulation.arena_bytes() == 0; });
  CHECK(simulation.calls(SimulatedCall::register_host) == 2);
}

TEST_CASE("an arena of which the program has nothing but buffers pins no more") {
  const auto device = support::stepped();
  const auto& core = HandleAccess::core(device);
  const auto arena = std::make_shared<ArenaCore>(
      core, &open(core, {.bytes = 3 * MiB, .max_bytes = 3 * MiB, .region = {}, .piece = MiB}));
  HeapCore* const heap = HeapCore::open(arena, {.alignment = 64});
  const auto made = allocate_block(*heap, KiB, 64, std::nullopt, "test");
  REQUIRE(made);
  std::shared_ptr<ArenaCore> handle = arena;
  arena->upkeep.next_piece = at(0s);
  CHECK(care_for(arena, at(0s)) != Clock::time_point::max());
  CHECK(arena->store().capacity() == 2 * MiB);
  handle.reset();
  heap->close();
  arena->upkeep.next_piece = at(0s);
  CHECK(care_for(arena, at(0s)) == Clock::time_point::max());
  CHECK(arena->store().capacity() == 2 * MiB);
  heap->release(*made);
}

TEST_CASE("a device that is lost while an arena is pinned ends the pinning, which says so") {
  const auto device = Device::simulated({.stepped = true});
  auto simulation = device.simulation();
  Turnstile turnstile(device);
  const PinnedArena arena(device, in_pieces(4 * MiB, MiB));
  turnstile.wait_for_somebody();
  simulation.lose_device();
  turnstile.open();
  until([&] { return !arena.stats().pinning_failed.empty(); });
  CHECK(arena.capacity() == MiB);
  CHECK(arena.stats().to_pin == 0);
}

TEST_CASE("a child that is forked while its parent's arena is pinned has arenas of its own" *
          doctest::skip(THOLE_TEST_SANITIZED)) {
  const auto device = Device::simulated({.stepped = true});
  const auto simulation = device.simulation();
  Turnstile turnstile(device);
  std::optional<PinnedArena> arena(std::in_place, device, in_pieces(4 * MiB, MiB));
  turnstile.wait_for_somebody();
  CHECK(support::in_child([&] {
          arena.reset();
          const PinnedArena own(Device::simulated({.stepped = true}), in_pieces(4 * MiB, MiB));
          until([&] { return own.stats().to_pin == 0; });
          return own.capacity() == 4 * MiB ? 0 : 1;
        }) == 0);
  turnstile.open();
  until([&] { return arena->stats().to_pin == 0; });
  CHECK(arena->capacity() == 4 * MiB);
}

TEST_CASE("the library's thread pins one piece, then pauses, and comes again until all is pinned") {
  const Machine machine;
  const auto arena = std::make_shared<ArenaCore>(
      machine.device, &open(machine.device, {.bytes = 3 * MiB, .max_bytes = 3 * MiB, .region = {}, .piece = MiB}));
  const auto handle = arena;
  arena->upkeep.next_piece = at(0s);
  CHECK(care_for(arena, at(0s)) > at(0s));
  CHECK(arena->store().capacity() == 2 * MiB);
  arena->upkeep.next_piece = at(5s);
  CHECK(care_for(arena, at(4s)) == at(5s));
  CHECK(arena->store().capacity() == 2 * MiB);
  CHECK(care_for(arena, at(5s)) == Clock::time_point::max());
  CHECK(arena->store().capacity() == 3 * MiB);
}

TEST_CASE("pieces of 0 bytes and a negative age are errors that say so") {
  const auto device = support::stepped();
  CHECK(has(errc_text([&] { (void)PinnedArena(device, in_pieces(MiB, 0)); }, Errc::invalid_argument), "piece_bytes"));
  CHECK(has(errc_text([&] { (void)PinnedArena(device, {.bytes = MiB, .trim_after = -1ns}); }, Errc::invalid_argument),
            "-1"));
}

// ---- Trimming by age

namespace {

/// An arena that has grown by a region of its own for each of some blocks.
struct Grown {
  explicit Grown(std::size_t times) {
    while (blocks.size() != times) {
      REQUIRE(store.grow(32 * MiB, store.growths()));
      blocks.push_back(take(store, 32 * MiB, 64));
      REQUIRE(blocks.back() != nullptr);
    }
  }
  ~Grown() {
    free_all(store, blocks);
    store.close();
  }
  Grown(const Grown&) = delete;
  Grown& operator=(const Grown&) = delete;

  Machine machine;
  Store& store = open(machine.device, {.bytes = MiB, .max_bytes = 512 * MiB, .region = {}});
  Blocks blocks;
};

}  // namespace

TEST_CASE("a region that was empty at each look for so long is unpinned, and not before") {
  Grown grown(1);
  Store& store = grown.store;
  const std::size_t before = store.capacity();
  CHECK(store.trim_idle(at(0s), 10s) == 0);
  free_all(store, grown.blocks);
  CHECK(store.trim_idle(at(100s), 10s) == 0);  // when it was emptied nobody knows
  CHECK(store.trim_idle(at(109s), 10s) == 0);
  CHECK(store.trim_idle(at(110s), 10s) == before - MiB);
  CHECK(store.capacity() == MiB);
  CHECK(grown.machine.controls.pinned_bytes() == MiB);
}

TEST_CASE("a region that was used between two looks is as young as the later one") {
  Grown grown(1);
  Store& store = grown.store;
  free_all(store, grown.blocks);
  CHECK(store.trim_idle(at(0s), 10s) == 0);
  give(store, take(store, 32 * MiB, 64));
  CHECK(store.trim_idle(at(10s), 10s) == 0);
  CHECK(store.trim_idle(at(19s), 10s) == 0);
  CHECK(store.trim_idle(at(20s), 10s) != 0);
}

TEST_CASE("what is in use, and the memory that the arena began with, stay however old they are") {
  Grown grown(1);
  Store& store = grown.store;
  const std::size_t before = store.capacity();
  for (int i = 0; i != 5; ++i) CHECK(store.trim_idle(at(i * 1h), 1s) == 0);
  CHECK(store.capacity() == before);
  free_all(store, grown.blocks);
  for (int i = 5; i != 10; ++i) (void)store.trim_idle(at(i * 1h), 1s);
  CHECK(store.capacity() == MiB);
}

TEST_CASE("what threads keep of a heap does not make its arena young") {
  const auto device = support::stepped();
  const auto& core = HandleAccess::core(device);
  const auto own = std::make_shared<ArenaCore>(core, &open(core, {.bytes = MiB, .max_bytes = 128 * MiB, .region = {}}));
  HeapCore* const open_heap = HeapCore::open(own, {.alignment = 64});
  std::vector<Block*> blocks;
  while (own->store().growths() == 0) {
    auto made = allocate_block(*open_heap, 64 * KiB, 64, std::nullopt, "test");
    REQUIRE(made);
    blocks.push_back(*made);
  }
  for (Block* const block : blocks) open_heap->release(block);
  own->upkeep.trim_after = 10s;
  own->upkeep.next_look = at(0s);
  CHECK(care_for(own, at(0s)) == at(2500ms));
  CHECK(own->store().has_grown());
  CHECK(care_for(own, at(1s)) == at(2500ms));
  for (auto now = 2500ms; now != 10s; now += 2500ms) (void)care_for(own, at(now));
  CHECK(own->store().has_grown());
  (void)care_for(own, at(10s));
  CHECK_FALSE(own->store().has_grown());
  open_heap->close();
}

TEST_CASE("an arena that was told to trims itself") {
  const auto device = support::stepped();
  const PinnedArena arena(device, {.bytes = MiB, .max_bytes = 128 * MiB, .trim_after = 1ns});
  const PinnedHeap heap(arena);
  {
    const auto small = heap.make_buffer<std::byte>(MiB);
    const auto large = heap.make_buffer<std::byte>(MiB);
    CHECK(arena.capacity() > MiB);
  }
  // The arena lets go of it first; then the thread unpins it.
  until([&] { return device.simulation().pinned_bytes() == MiB; });
  CHECK(arena.capacity() == MiB);
}

TEST_CASE("where the system has no thread to take care of an arena, the device says so" *
          doctest::skip(THOLE_TEST_SANITIZED)) {
  CHECK(support::in_child([&] {
          pthread_attr_t attributes;
          pthread_attr_init(&attributes);
          pthread_attr_setstacksize(&attributes, std::size_t{1} << 62);  // so much is not to be had
          pthread_setattr_default_np(&attributes);
          auto device = support::stepped();
          const PinnedArena trimmed(device, {.bytes = MiB, .max_bytes = 2 * MiB, .trim_after = 1h});
          const auto of_trimming = device.take_error();
          auto both = in_pieces(2 * MiB, MiB);
          both.trim_after = 1h;
          const PinnedArena pinned(device, both);
          const auto of_both = device.take_error();
          const bool said = of_trimming && of_trimming->errc() == Errc::limit && has(of_trimming->what(), "trim") &&
                            of_both && of_both->errc() == Errc::limit && has(of_both->what(), "pin") &&
                            has(of_both->what(), "trim");
          return said && trimmed.stats().pinning_failed.empty() && has(pinned.stats().pinning_failed, "thread") ? 0 : 1;
        }) == 0);
}

TEST_CASE("more arenas come while the library's thread waits for the next look at the others") {
  const auto device = support::stepped();
  std::vector<PinnedArena> arenas;
  while (arenas.size() != 16) {
    auto options = in_pieces(8 * KiB, 4 * KiB);
    options.trim_after = 24h;
    arenas.emplace_back(device, options);
    until([&] { return arenas.back().stats().to_pin == 0; });  // the thread has nothing more to do, and waits
  }
  CHECK(arenas.front().capacity() == 8 * KiB);
}

TEST_CASE("while the device has work, trimming by age is put off, but not for ever") {
  const support::Rig rig(support::stepped(), {.bytes = MiB, .max_bytes = 128 * MiB});
  const Stream stream(rig.device);
  const auto core = std::make_shared<ArenaCore>(
      HandleAccess::core(rig.device),
      *Store::open(HandleAccess::core(rig.device), {.bytes = MiB, .max_bytes = 128 * MiB, .region = {}}));
  REQUIRE(core->store().grow(32 * MiB, 0));
  auto target = DeviceBuffer<std::byte>(stream, KiB);
  rig.heap.make_buffer<std::byte>(KiB).async_to_device(stream, target.span());
  REQUIRE(core->is_busy());
  core->upkeep.trim_after = 10s;
  core->upkeep.next_look = at(0s);
  for (auto now = 0ms; now != 30s; now += 2500ms) {
    (void)care_for(core, at(now));
    CHECK(core->store().has_grown());
  }
  (void)care_for(core, at(30s));
  CHECK_FALSE(core->store().has_grown());
  rig.settle(stream);
}
