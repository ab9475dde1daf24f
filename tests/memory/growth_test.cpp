// Growing, letting go, and the figures.

#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <thole/thole.hpp>

#include "fixture.hpp"

using namespace memory_test;

TEST_CASE("a store grows in steps up to max_bytes, and a block never straddles two regions") {
  const Machine machine;
  const OpenStore store(machine, 4096, 200 * MiB);
  Blocks blocks;
  for (;;) {
    const std::size_t seen = store->growths();
    if (Block* const block = take(*store, 300 * KiB, 64); block != nullptr) {
      blocks.push_back(block);
      continue;
    }
    const auto grown = store->grow(300 * KiB, seen);
    if (grown) continue;
    CHECK(grown.error().errc() == Errc::out_of_memory);
    break;
  }
  CHECK(store->capacity() == 200 * MiB);
  CHECK(machine.controls.pinned_bytes() == 200 * MiB);
  CHECK(blocks.size() > 600);
  CHECK(sound(*store, blocks, 64));
  std::size_t region = SIZE_MAX;
  const std::byte* end = nullptr;
  for (const StoreSpan& span : store->spans()) {
    if (span.region == region) CHECK(span.data == end);  // no gap within a region
    region = span.region;
    end = span.data + span.bytes;
  }
  CHECK(store->stats().regions == store->growths() + 1);
  CHECK(store->stats().regions < 8);
  free_all(*store, blocks);
}

TEST_CASE("growth hands out all buffers of one size that fit beside what the arena began with") {
  constexpr std::size_t most = 256;
  for (const std::size_t first : {std::size_t{1}, std::size_t{16}, std::size_t{64}})
    for (const std::size_t mib : {1U, 3U, 10U, 33U, 50U, 65U, 100U, 129U}) {
      const Machine machine;
      const OpenStore store(machine, first * MiB, most * MiB);
      Blocks blocks;
      for (std::size_t seen = 0; seen != SIZE_MAX;) {
        while (Block* const block = take(*store, mib * MiB, 64)) blocks.push_back(block);
        seen = store->grow(mib * MiB, store->growths()) ? 0 : SIZE_MAX;
      }
      CAPTURE(first);
      CAPTURE(mib);
      CHECK(blocks.size() == first / mib + (most - first) / mib);
      free_all(*store, blocks);
    }
}

TEST_CASE("trim gives back grown regions with nothing in them, and keeps what the arena began with") {
  const Machine machine;
  const OpenStore store(machine, 1 * MiB, 400 * MiB);
  REQUIRE(store->grow(64 * MiB, store->growths()));
  REQUIRE(store->grow(150 * MiB, store->growths()));
  Block* const kept = take(*store, 100 * MiB, 64);
  REQUIRE(kept != nullptr);
  kept->data[100 * MiB - 1] = std::byte{7};
  CHECK(store->trim() == 64 * MiB);
  CHECK(store->trim() == 0);
  CHECK(store->contains(kept->data));
  CHECK(kept->data[100 * MiB - 1] == std::byte{7});
  give(*store, kept);
  CHECK(store->trim() == 150 * MiB);
  CHECK(store->capacity() == 1 * MiB);
  CHECK(machine.controls.pinned_bytes() == 1 * MiB);
  CHECK_FALSE(store->contains(nullptr));
}

TEST_CASE("small blocks in a grown region keep it, and once they are gone trim gives it back") {
  const Machine machine;
  const OpenStore store(machine, 4096, 300 * MiB);
  REQUIRE(store->grow(256 * MiB, 0));
  Blocks small;
  for (int i = 0; i < 1000; ++i) small.push_back(take(*store, 5000, 64));
  CHECK(store->trim() == 0);
  free_all(*store, small);
  CHECK(store->trim() == 256 * MiB);
  REQUIRE(store->grow(256 * MiB, store->growths()));
  for (int i = 0; i < 1000; ++i) small.push_back(take(*store, 5000, 64));
  CHECK(sound(*store, small, 64));
  free_all(*store, small);
}

TEST_CASE("empty regions make way when a large block needs the room") {
  const Machine machine;
  const OpenStore store(machine, 4096, 100 * MiB);
  REQUIRE(store->grow(40 * MiB, 0));
  REQUIRE(store->grow(40 * MiB, 1));
  CHECK(store->largest_possible() >= 99 * MiB);
  REQUIRE(store->grow(90 * MiB, 2));
  Block* const block = take(*store, 90 * MiB, 64);
  CHECK(block != nullptr);
  CHECK(store->capacity() <= 100 * MiB);
  give(*store, block);
}

TEST_CASE("empty regions that cannot make way for a larger one stay the arena's, and nothing is pinned again") {
  SimulationOptions options;
  options.max_pinned_bytes = 120 * MiB;
  const Machine machine(options);
  const OpenStore store(machine, 4096, 100 * MiB);
  REQUIRE(store->grow(40 * MiB, 0));
  REQUIRE(store->grow(40 * MiB, 1));
  const std::size_t before = store->capacity();
  SUBCASE("since a limit refuses that one") {
    const auto refused = store->grow(90 * MiB, 2);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().errc() == Errc::limit);
  }
  SUBCASE("since they are too small for it") {
    Block* const kept = take(*store, 30 * MiB, 64);
    const auto refused = store->grow(90 * MiB, 2);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().errc() == Errc::out_of_memory);
    CHECK(std::string(refused.error().what()).find("it has " + std::to_string(before)) != std::string::npos);
    give(*store, kept);
  }
  CHECK(store->capacity() == before);
  Blocks blocks;
  while (Block* const block = take(*store, 40 * MiB, 64)) blocks.push_back(block);
  CHECK(blocks.size() == 2);
  CHECK(sound(*store, blocks, 64));
  free_all(*store, blocks);
  CHECK(store->stats().regions == 3);
}

TEST_CASE("regions that are to make way for a larger one can be used until that is there, and then stay") {
  Machine machine;
  const OpenStore store(machine, 4096, 100 * MiB);
  REQUIRE(store->grow(40 * MiB, 0));
  REQUIRE(store->grow(40 * MiB, 1));
  const std::size_t before = store->capacity();
  Block* used = nullptr;
  machine.controls.before_call(SimulatedCall::register_host, [&] { used = take(*store, 30 * MiB, 64); });
  const auto refused = store->grow(90 * MiB, 2);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().errc() == Errc::out_of_memory);
  REQUIRE(used != nullptr);
  CHECK(store->capacity() == before);
  CHECK(store->growths() == 3);  // who has missed the empty ones meanwhile looks again
  CHECK(store->stats().grown == 2);
  give(*store, used);
  const auto pinned = machine.controls.calls(SimulatedCall::register_host);
  CHECK(store->grow(90 * MiB, 3));
  CHECK(machine.controls.calls(SimulatedCall::register_host) == pinned);  // it has been kept
  Block* const large = take(*store, 90 * MiB, 64);
  CHECK(large != nullptr);
  give(*store, large);
}

TEST_CASE("while regions are unpinned others may make the store grow") {
  Machine machine;
  const OpenStore store(machine, 4096, 200 * MiB);
  REQUIRE(store->grow(40 * MiB, 0));
  bool grown = false;
  machine.controls.before_call(SimulatedCall::unregister_host, [&] {
    std::thread([&] { grown = store->grow(10 * MiB, store->growths()).has_value(); }).join();
  });
  CHECK(store->trim() >= 40 * MiB);
  CHECK(grown);
}

TEST_CASE("who waits for memory for a time waits no longer for another thread that grows") {
  const Device device = Device::simulated();
  const PinnedArena arena(device, {.bytes = 32 * MiB, .max_bytes = 256 * MiB});
  const PinnedHeap heap(arena);
  std::optional<Errc> told;
  device.simulation().before_call(SimulatedCall::register_host, [&] {
    std::thread([&] {
      const auto made = heap.try_make_buffer_for<std::byte>(50 * MiB, std::chrono::milliseconds(5));
      if (!made) told = made.error().errc();
    }).join();
  });
  CHECK(heap.make_buffer<std::byte>(60 * MiB).size() == 60 * MiB);
  REQUIRE(told.has_value());
  CHECK(*told == Errc::timed_out);
}

TEST_CASE("an arena that was pinned in the background, and has exchanged regions since, has nothing left to pin") {
  SimulationOptions options;
  options.max_pinned_bytes = 136 * MiB;
  PinnedArena arena(Device::simulated(options),
                    {.bytes = 96 * MiB, .pin_in_background = true, .piece_bytes = 32 * MiB});
  while (arena.stats().to_pin != 0) std::this_thread::yield();
  const auto large = PinnedHeap(arena).make_buffer<std::byte>(40 * MiB);
  CHECK(arena.stats().capacity == 72 * MiB);
  CHECK(arena.stats().to_pin == 0);
}

TEST_CASE("who waits for memory gets what regions make way for that others have left") {
  const PinnedArena arena(Device::simulated(), {.bytes = 32 * MiB, .max_bytes = 128 * MiB});
  const PinnedHeap heap(arena);
  std::vector<PinnedBuffer<std::byte>> all;
  while (auto made = heap.try_make_buffer<std::byte>(24 * MiB)) all.push_back(std::move(*made));
  REQUIRE(arena.stats().regions > 3);
  std::thread drops([&] {
    while (heap.stats().waited == 0) std::this_thread::yield();
    all.clear();
  });
  CHECK(heap.try_make_buffer_for<std::byte>(64 * MiB, std::chrono::minutes(1)).has_value());
  drops.join();
}

TEST_CASE("who waits for memory that cannot grow tries that ever less often") {
  using namespace std::chrono_literals;
  int tries = 0;
  bool refuses = false;
  ArenaOptions options{.bytes = MiB, .max_bytes = 8 * MiB};
  options.on_region_added = [&](gsl::span<std::byte>) {
    if (!refuses) return;
    ++tries;
    throw std::runtime_error("no");
  };
  const PinnedHeap heap(PinnedArena(Device::simulated({.stepped = true}), options));
  const auto all = heap.make_buffer<std::byte>(MiB);
  refuses = true;
  const auto failed = heap.try_make_buffer_for<std::byte>(MiB, 200ms);
  REQUIRE(!failed);
  CHECK(failed.error().errc() == Errc::timed_out);
  CHECK(tries != 0);
  CHECK(tries < 12);  // at first, and 1, 2, 4, ... ms after the one before: a slow machine comes to fewer
}

TEST_CASE("who asks to grow after somebody else has grown gets ok, and the arena does not grow twice") {
  const Machine machine;
  const OpenStore store(machine, 1 * MiB, 400 * MiB);
  const std::size_t seen = store->growths();
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) threads.emplace_back([&store, seen] { CHECK(store->grow(10 * MiB, seen)); });
  for (std::thread& thread : threads) thread.join();
  CHECK(store->growths() == 1);
  CHECK(store->stats().regions == 2);
}

TEST_CASE("growth beyond the limit on pinned memory takes what is left, or says limit and changes nothing") {
  SimulationOptions options;
  options.max_pinned_bytes = 20 * MiB;
  const Machine machine(options);
  const OpenStore store(machine, 10 * MiB, 1 * GiB);
  CHECK(store->grow(9 * MiB, 0));  // a whole step would be too much
  CHECK(store->capacity() == 19 * MiB);
  const auto refused = store->grow(2 * MiB, 1);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().errc() == Errc::limit);
  CHECK(store->capacity() == 19 * MiB);
  Block* const block = take(*store, 9 * MiB, 64);
  CHECK(block != nullptr);
  give(*store, block);
}

TEST_CASE("trim while others grow, allocate and free loses nothing") {
  const Machine machine;
  const OpenStore store(machine, 1 * MiB, 120 * MiB);
  std::atomic<int> running{3};
  std::vector<std::thread> threads;
  for (unsigned seed = 0; seed < 3; ++seed)
    threads.emplace_back([&store, &running, seed] {
      std::mt19937 random(seed);
      Blocks mine;
      for (int i = 0; i < 600; ++i) {
        const std::size_t bytes = 1 + random() % (4 * MiB);
        const std::size_t seen = store->growths();
        if (Block* const block = take(*store, bytes, 64); block != nullptr) {
          block->data[0] = block->data[bytes - 1] = static_cast<std::byte>(seed);
          mine.push_back(block);
        } else if (!store->grow(bytes, seen) || mine.size() > 8) {
          for (const Block* held : mine) CHECK(held->data[0] == static_cast<std::byte>(seed));
          free_all(*store, mine);
        }
      }
      free_all(*store, mine);
      --running;
    });
  while (running.load() > 0) {
    store->trim();
    (void)store->stats();
    (void)store->spans();
  }
  for (std::thread& thread : threads) thread.join();
  store->trim();
  CHECK(store->capacity() == 1 * MiB);
  CHECK(all_free(*store));
}

TEST_CASE("the figures add up at any moment") {
  const Machine machine;
  const OpenStore store(machine, 160 * MiB);
  std::mt19937 random(3);
  Blocks blocks;
  for (int step = 0; step < 3000; ++step) {
    if (random() % 3 != 0) {
      const std::size_t bytes = 1 + random() % (std::size_t{1} << random() % 22);
      if (Block* const block = take(*store, bytes, 64); block != nullptr) blocks.push_back(block);
    } else if (!blocks.empty()) {
      std::swap(blocks[random() % blocks.size()], blocks.back());
      give(*store, blocks.back());
      blocks.pop_back();
    }
    if (step % 100 != 0) continue;
    const StoreStats stats = store->stats();
    std::size_t out = 0;
    for (const Block* block : blocks) out += block->capacity;
    CHECK(stats.handed_out == out);
    CHECK(stats.free == stats.capacity - out);
    CHECK(stats.capacity == 160 * MiB);
    CHECK(stats.largest_free <= stats.free);
    std::size_t in_spans = 0, seen_out = 0;
    for (const StoreSpan& span : store->spans()) {
      in_spans += span.bytes;
      if (span.kind == StoreSpan::Kind::block) seen_out += span.bytes;
    }
    CHECK(in_spans == stats.capacity);
    CHECK(seen_out == out);
    Block* const largest = take(*store, stats.largest_free, 64);
    REQUIRE(largest != nullptr);
    give(*store, largest);
  }
  free_all(*store, blocks);
}
