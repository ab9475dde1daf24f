// Memory as a program sees it: buffers of every size, from any thread, until there is no more.

#include <thole/thole.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "memory/pinned_pool.hpp"
#include "support/rig.hpp"

using namespace thole;

namespace {

constexpr std::size_t KiB = 1024;
constexpr std::size_t MiB = 1024 * KiB;

using Bytes = PinnedBuffer<std::byte>;

PinnedArena arena_of(std::size_t bytes, std::size_t max_bytes = 0) {
  ArenaOptions options;
  options.bytes = bytes;
  options.max_bytes = max_bytes;
  return PinnedArena(support::running_under_test(), options);
}

std::vector<Bytes> fill(const PinnedHeap& heap, std::size_t bytes) {
  std::vector<Bytes> buffers;
  for (;;) {
    auto made = heap.try_make_buffer<std::byte>(bytes);
    if (!made) {
      CHECK(made.error().errc() == Errc::out_of_memory);
      return buffers;
    }
    buffers.push_back(std::move(*made));
  }
}

/// All of it pinned, and no byte in two buffers.
bool sound(const PinnedArena& arena, const std::vector<Bytes>& buffers) {
  std::vector<std::pair<const std::byte*, std::size_t>> pieces;
  for (const Bytes& buffer : buffers) pieces.emplace_back(buffer.unsynchronized_data(), buffer.size());
  std::sort(pieces.begin(), pieces.end());
  const std::byte* end = nullptr;
  for (const auto& [data, size] : pieces) {
    if (data < end) return false;
    end = data + size;
    if (!arena.contains(data) || !arena.contains(end - 1)) return false;
  }
  return true;
}

}  // namespace

TEST_CASE("however an arena is filled, each buffer is pinned and its own, and all comes back") {
  const PinnedArena arena = arena_of(64 * MiB);
  const PinnedHeap heap(arena);
  std::mt19937 random(1);
  for (int round = 0; round < 8; ++round) {
    std::vector<Bytes> buffers;
    for (;;) {
      auto made = heap.try_make_buffer<std::byte>(1 + random() % (std::size_t{1} << random() % 23));
      if (!made) break;
      buffers.push_back(std::move(*made));
    }
    CHECK(sound(arena, buffers));
    std::shuffle(buffers.begin(), buffers.end(), random);
  }
  CHECK(heap.make_buffer<std::byte>(60 * MiB).size() == 60 * MiB);
}

TEST_CASE("the elements of a buffer are aligned for their type and for any copy engine") {
  struct alignas(64) Line {
    char bytes[64];
  };
  struct alignas(1024) Sector {
    char bytes[1024];
  };
  const PinnedArena arena = arena_of(8 * MiB);
  const PinnedHeap heap(arena);
  for (int i = 1; i < 40; ++i) {
    const auto count = static_cast<std::size_t>(i);
    const auto lines = heap.make_buffer<Line>(count);
    CHECK(reinterpret_cast<std::uintptr_t>(lines.unsynchronized_data()) % 64 == 0);
    const auto sectors = heap.make_buffer<Sector>(count);
    CHECK(reinterpret_cast<std::uintptr_t>(sectors.unsynchronized_data()) % 1024 == 0);
  }
}

TEST_CASE("out of memory tells what was wanted, what is free and what there is, and the next that fits succeeds") {
  const PinnedArena arena = arena_of(16 * MiB);
  const PinnedHeap heap(arena);
  std::vector<Bytes> buffers = fill(heap, 1 * MiB);
  CHECK(buffers.size() == 16);
  const auto refused = heap.try_make_buffer<std::byte>(3 * MiB);
  REQUIRE_FALSE(refused);
  const std::string text = refused.error().what();
  CHECK(text.find("3145728") != std::string::npos);
  CHECK(text.find("16777216") != std::string::npos);
  buffers.erase(buffers.begin() + 13, buffers.end());
  CHECK(heap.make_buffer<std::byte>(1 * MiB).size() == 1 * MiB);
  const auto impossible = heap.try_make_buffer<std::byte>(17 * MiB);
  REQUIRE_FALSE(impossible);
  CHECK(impossible.error().errc() == Errc::too_large);
}

TEST_CASE("what one thread made and another dropped serves a third while the first rests") {
  const PinnedArena arena = arena_of(48 * MiB);
  const PinnedHeap heap(arena);
  for (const std::size_t bytes : {500 * std::size_t{1}, 4 * KiB, 64 * KiB, 1 * MiB}) {
    CAPTURE(bytes);
    std::vector<Bytes> buffers;
    std::thread maker([&] { buffers = fill(heap, bytes); });
    maker.join();
    const std::size_t all = buffers.size();
    std::thread([&] { buffers.clear(); }).join();
    std::thread([&] { buffers = fill(heap, bytes); }).join();
    CHECK(buffers.size() * 50 >= all * 49);  // a cached block in the wrong place may cost one at each side
    CHECK(sound(arena, buffers));
    buffers.clear();
  }
}

TEST_CASE("an idle thread's cache keeps nothing from others") {
  const PinnedArena arena = arena_of(4 * MiB);
  const PinnedHeap heap(arena);
  std::size_t all = 0;
  {
    const auto buffers = fill(heap, 4 * KiB);
    all = buffers.size();
  }  // this thread's caches now hold some of them, and it rests
  std::size_t others = 0;
  std::thread([&] { others = fill(heap, 4 * KiB).size(); }).join();
  CHECK(others == all);
  std::thread([&] { others = fill(heap, 4 * MiB).size(); }).join();
  CHECK(others == 1);
}

TEST_CASE("10,000 threads that end with buffers alive lose no byte") {
  const PinnedArena arena = arena_of(8 * MiB);
  const PinnedHeap heap(arena);
  const std::size_t at_start = fill(heap, 10 * KiB).size();
  std::vector<Bytes> alive;
  for (std::size_t i = 0; i < 10000; ++i)
    std::thread([&, i] {
      const auto mine = heap.make_buffer<std::byte>(1 + i % (30 * KiB));
      alive.push_back(heap.make_buffer<std::byte>(1 + i % 3000));
      if (alive.size() > 60) alive.erase(alive.begin());
    }).join();
  alive.clear();
  CHECK(fill(heap, 10 * KiB).size() * 100 >= at_start * 99);      // what is cached lies where it lies
  CHECK(heap.make_buffer<std::byte>(8 * MiB).size() == 8 * MiB);  // and nothing is lost
}

TEST_CASE("threads that make and drop on one heap while it grows never share a byte") {
  const PinnedArena arena = arena_of(1 * MiB, 64 * MiB);
  const PinnedHeap heap(arena);
  std::vector<std::thread> threads;
  for (unsigned seed = 1; seed <= 4; ++seed)
    threads.emplace_back([&heap, seed] {
      std::mt19937 random(seed);
      std::vector<Bytes> mine;
      const auto mark = static_cast<std::byte>(seed);
      for (int i = 0; i < 4000; ++i) {
        auto made = heap.try_make_buffer<std::byte>(1 + random() % (std::size_t{1} << random() % 20));
        if (made) {
          made->unsynchronized_data()[0] = made->unsynchronized_data()[made->size() - 1] = mark;
          mine.push_back(std::move(*made));
        }
        if (mine.size() > 20 || !made) {
          if (mine.empty()) continue;
          std::swap(mine[random() % mine.size()], mine.back());
          const Bytes& last = mine.back();
          CHECK(last.unsynchronized_data()[0] == mark);
          CHECK(last.unsynchronized_data()[last.size() - 1] == mark);
          mine.pop_back();
        }
      }
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(arena.capacity() <= 64 * MiB);
  CHECK(arena.stats().in_use == 0);
}

TEST_CASE("trim gives back what the arena has grown by once the buffers are gone, caches and all") {
  const std::size_t others = detail::bytes_in_use(support::backend_of(support::running_under_test()));
  PinnedArena arena = arena_of(1 * MiB, 100 * MiB);
  const PinnedHeap heap(arena);
  {
    const auto buffers = fill(heap, 300 * KiB);
    CHECK(arena.capacity() == 100 * MiB);
    CHECK(sound(arena, buffers));
  }
  heap.collect();
  CHECK(arena.trim() == 99 * MiB);
  CHECK(arena.capacity() == 1 * MiB);
  CHECK(detail::bytes_in_use(support::backend_of(arena.device())) <=
        others + 2 * MiB);  // one that was kept may be larger
  CHECK(heap.make_buffer<std::byte>(20 * MiB).size() == 20 * MiB);
}

TEST_CASE("a heap and its arena may end while a thread that used them ends, and no memory is handed out twice") {
  // What the thread's end gives back races with the end of everything else; the next arena takes over the records.
  for (int round = 0; round != 500; ++round) {
    const auto device = Device::simulated();
    auto arena = std::make_unique<PinnedArena>(device, ArenaOptions{.bytes = MiB});
    auto heap = std::make_unique<PinnedHeap>(*arena);
    std::atomic<bool> used{false};
    std::thread worker([&] {
      {
        std::vector<Bytes> buffers;  // many: what a thread has kept, it gives back in several pieces
        for (int i = 0; i != 200; ++i) buffers.push_back(heap->make_buffer<std::byte>(2 * KiB));
      }
      used = true;
    });
    while (!used) std::this_thread::yield();
    arena.reset();
    heap.reset();
    worker.join();

    const PinnedArena next(device, {.bytes = MiB});
    const PinnedHeap all(next);
    std::vector<Bytes> buffers;
    while (auto made = all.try_make_buffer<std::byte>(256 * KiB)) {
      REQUIRE(next.contains(made->unsynchronized_data()));
      buffers.push_back(std::move(*made));
    }
    REQUIRE(buffers.size() == 4);
  }
}
