// Memory that one thread leaves and another wants, whatever threads, heaps and buffers there are or were. No device
// takes part: it is a simulated one.

#include <thole/thole.hpp>

#include <doctest/doctest.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <thole/config.hpp>

#include "fixture.hpp"
#include "heap/arena_core.hpp"
#include "heap/heap_core.hpp"

using namespace memory_test;

namespace {

using Bytes = PinnedBuffer<std::byte>;

std::vector<Bytes> fill_heap(const PinnedHeap& heap, std::size_t bytes) {
  std::vector<Bytes> buffers;
  while (auto made = heap.try_make_buffer<std::byte>(bytes)) buffers.push_back(std::move(*made));
  return buffers;
}

/// What handles have in them, so that a test can look at the depot and the store.
struct Inside {
  explicit Inside(std::size_t bytes, std::size_t max_bytes = 0)
      : arena(std::make_shared<ArenaCore>(
            machine.device,
            *Store::open(machine.device, {bytes, std::max(bytes, max_bytes), {PinMethod::register_pages, -1}}))) {}
  HeapCore* heap() const { return HeapCore::open(arena, {}); }
  static Block* make(HeapCore& heap, std::size_t bytes) {
    const Request request{bytes, bytes, granule};
    Block* const cached = heap.take_cached(request);
    return cached != nullptr ? cached : heap.take_from_store(request);
  }

  Machine machine;
  std::shared_ptr<ArenaCore> arena;
};

}  // namespace

TEST_CASE(
    "between a thread that makes and one that drops, many blocks change hands at once, and none goes to the store") {
  const Inside in(64 * MiB);
  HeapCore* const heap = in.heap();
  for (const std::size_t bytes : {std::size_t{64}, 4 * KiB}) {
    std::size_t out = 0;
    std::uint64_t moves = 0;
    std::vector<Block*> blocks;
    for (int round = 0; round != 20; ++round) {
      for (int i = 0; i != 256; ++i) blocks.push_back(Inside::make(*heap, bytes));
      // A consumer that goes on living would have a cache; one that ends gives it all to the depot.
      std::thread([&] {
        for (Block* const block : blocks) heap->release(block);
      }).join();
      blocks.clear();
      if (round == 5) {
        out = in.arena->store().handed_out();
        moves = in.arena->depot.moves();
      }
    }
    CHECK(in.arena->store().handed_out() == out);
    CHECK(in.arena->depot.moves() - moves <= 14 * 2 * (256 / 64 + 2));
  }
  heap->close();
}

TEST_CASE("threads that have ended leave no cache behind that anybody looks at, and their counts stay") {
  const PinnedArena arena(Device::simulated(), {.bytes = 8 * MiB});
  const PinnedHeap heap(arena);
  for (int i = 0; i != 300; ++i) std::thread([&] { (void)heap.make_buffer<std::byte>(KiB); }).join();
  CHECK(heap.stats().buffers_made == 300);
  CHECK(heap.stats().freed_at_once == 300);
  CHECK(heap.stats().in_use == 0);
  CHECK(arena.stats().buffers_made == 300);
}

TEST_CASE("what a flush has found empty it does not look at again, however many heaps there are") {
  const Inside in(16 * MiB);
  std::vector<HeapCore*> heaps;
  for (int i = 0; i != 50; ++i) {
    heaps.push_back(in.heap());
    heaps.back()->release(Inside::make(*heaps.back(), KiB));
  }
  MovingBlocks moving;
  CHECK(in.arena->kept_bytes() >= 50 * KiB);
  in.arena->flush();
  CHECK(in.arena->kept_bytes() == 0);
  CHECK(in.arena->store().handed_out() == 0);
  CHECK(in.arena->take_from_keepers(KiB, granule, moving) == nullptr);
  heaps.front()->release(Inside::make(*heaps.front(), KiB));  // one keeps something again, and is found
  Block* found = in.arena->take_from_keepers(KiB, granule, moving);
  REQUIRE(found != nullptr);
  in.arena->store().free_batch(&found, 1);
  for (HeapCore* const heap : heaps) heap->close();
  CHECK(in.arena.use_count() == 1);
}

TEST_CASE("what the threads and heaps of an arena keep serves every other heap and thread of it") {
  const PinnedArena arena(Device::simulated(), {.bytes = 8 * MiB});
  std::vector<PinnedHeap> heaps;
  for (int i = 0; i != 4; ++i) heaps.emplace_back(arena);
  for (const PinnedHeap& heap : heaps) (void)fill_heap(heap, 12 * KiB);
  CHECK(arena.stats().cached > 0);
  for (const PinnedHeap& heap : heaps) {
    CHECK(heap.make_buffer<std::byte>(8 * MiB).size() == 8 * MiB);
    std::thread([&] { CHECK(fill_heap(heap, 64 * KiB).size() == 128); }).join();
  }
}

TEST_CASE("all of an idle arena can be had as sixteenths and as 64 KiB, whatever came before") {
  for (const std::size_t bytes : {64 * KiB, 256 * KiB, MiB, 3 * MiB, 16 * MiB, 64 * MiB}) {
    CAPTURE(bytes);
    const PinnedArena arena(Device::simulated(), {.bytes = bytes});
    const PinnedHeap heap(arena);
    std::mt19937 random(5);
    for (int round = 0; round != 4; ++round) {
      {
        std::vector<Bytes> buffers;
        for (int i = 0; i != 3000; ++i) {
          const std::size_t size = 1 + random() % (std::size_t{64} << random() % 14);
          if (auto made = heap.try_make_buffer<std::byte>(std::min(size, bytes)); made)
            buffers.push_back(std::move(*made));
        }
        for (int i = 0; i != 20; ++i)
          std::thread([&] {
            for (int k = 0; k != 4; ++k) (void)heap.try_make_buffer<std::byte>(std::size_t{64} << random() % 12);
          }).join();
      }
      CHECK(fill_heap(heap, bytes / 16).size() == 16);
      CHECK(fill_heap(heap, 64 * KiB).size() == bytes / (64 * KiB));
    }
  }
}

TEST_CASE("a buffer can have as many bytes as the figures say are free in one piece") {
  std::mt19937 random(11);
  for (int round = 0; round != 200; ++round) {
    const PinnedArena arena(Device::simulated(), {.bytes = 256 * KiB});
    const PinnedHeap heap(arena);
    std::vector<Bytes> buffers;
    for (int i = 0; i != 400; ++i) {
      if (auto made = heap.try_make_buffer<std::byte>(1 + random() % 4096); made) buffers.push_back(std::move(*made));
      if (i % 3 != 0 || buffers.empty()) continue;
      std::swap(buffers[random() % buffers.size()], buffers.back());
      buffers.pop_back();
    }
    (void)heap.try_make_buffer<std::byte>(250 * KiB);  // gives all that is kept to the arena
    const std::size_t largest = arena.stats().largest_free;
    CAPTURE(largest);
    CHECK((largest == 0 || heap.try_make_buffer<std::byte>(largest)));
  }
}

TEST_CASE("a large block that was at an odd place does not cut an idle arena in two") {
  for (const std::size_t bytes : {512 * KiB, MiB, 3 * MiB, 8 * MiB, 16 * MiB}) {
    CAPTURE(bytes);
    const PinnedArena arena(Device::simulated(), {.bytes = bytes});
    const PinnedHeap heap(arena);
    {
      const auto odd = heap.make_buffer<std::byte>(bytes / 32 + 4 * KiB);
      const auto behind = heap.make_buffer<std::byte>(bytes / 16);
    }
    CHECK(fill_heap(heap, bytes / 16).size() == 16);
  }
}

TEST_CASE("what mimalloc was lent, and holds nothing, does not cut an idle arena in two") {
  constexpr std::size_t bytes = 320 * MiB;
  const PinnedArena arena(Device::simulated(), {.bytes = bytes});
  const PinnedHeap heap(arena);
  {
    std::vector<Bytes> low;
    while (low.size() != 320) low.push_back(heap.make_buffer<std::byte>(128 * KiB));
    (void)heap.make_buffer<std::byte>(64);
  }
  const std::size_t pieces = fill_heap(heap, bytes / 16).size();
  CHECK(pieces == (config::arena_data_in_region ? 15 : 16));  // mimalloc 3 keeps its own data there for good
  (void)PinnedArena(arena).trim();
  CHECK(fill_heap(heap, bytes / 16).size() == pieces);
}

TEST_CASE("an arena that grows hands out as many buffers of one size as fit behind what it began with") {
  for (const std::size_t mib : {std::size_t{3}, std::size_t{20}, std::size_t{40}, std::size_t{100}}) {
    CAPTURE(mib);
    const PinnedArena arena(Device::simulated(), {.bytes = 4 * MiB, .max_bytes = 444 * MiB});
    const PinnedHeap heap(arena);
    CHECK(fill_heap(heap, mib * MiB).size() >= 440 / mib - 1);
    CHECK(fill_heap(heap, mib * MiB).size() * mib * 100 >= 440 / mib * mib * 95);
  }
}

TEST_CASE("a drain or a report of a heap looks neither at other heaps' blocks nor at the store") {
  const PinnedArena arena(Device::simulated(), {.bytes = 8 * MiB});
  const PinnedHeap heap(arena), other(arena);
  const auto live = fill_heap(other, 64 * KiB);
  CHECK(heap.report().blocks.empty());
  heap.drain();
  CHECK(other.report().blocks.empty());
}

TEST_CASE("an error's text says once that memory is out, and figures say what is free") {
  const PinnedArena arena(Device::simulated(), {.bytes = 256 * MiB});
  const PinnedHeap heap(arena);
  const auto all = fill_heap(heap, 8193);
  CHECK(static_cast<double>(all.size()) * 8193 / static_cast<double>(256 * MiB) >= 0.88);
  const auto refused = heap.try_make_buffer<std::byte>(8193);
  REQUIRE_FALSE(refused);
  const std::string text = refused.error().what();
  CHECK(text.find("out of memory: out of memory") == std::string::npos);
  CHECK(text.find("out of memory") == text.rfind("out of memory"));
  const auto stats = arena.stats();
  CHECK(stats.largest_free < 8193);
  CHECK(stats.in_use + stats.wasted + MiB >= stats.capacity);
}

TEST_CASE("nobody is told that memory is out while it lies in other threads' caches, in the depot, or on its way") {
  const PinnedArena arena(Device::simulated(), {.bytes = 1 * MiB});
  const PinnedHeap one(arena), two(arena);
  std::atomic<int> refused{0};
  std::vector<std::thread> threads;
  for (unsigned seed = 0; seed != 4; ++seed)
    threads.emplace_back([&, seed] {
      std::mt19937 random(seed);
      std::vector<Bytes> mine;  // at most a quarter of the arena
      for (int i = 0; i != 5000; ++i) {
        const PinnedHeap& heap = random() % 2 == 0 ? one : two;
        if (mine.size() == 4 || (!mine.empty() && random() % 2 == 0)) {
          mine.pop_back();
        } else if (auto made = heap.try_make_buffer<std::byte>(64 * KiB); made) {
          mine.push_back(std::move(*made));
        } else {
          ++refused;
        }
      }
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(refused == 0);
}
