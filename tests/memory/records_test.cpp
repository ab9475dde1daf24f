// The records of blocks: ordinary memory, in what figures and limits say, and given back. No device takes part: a
// simulated one, which pins nothing that the machine would miss.

#include <doctest/doctest.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <fstream>
#include <functional>
#include <ostream>
#include <streambuf>
#include <thread>
#include <utility>
#include <vector>

#include <thole/thole.hpp>

#include "../support/sanitized.hpp"
#include "base/limits.hpp"
#include "blocks/block_index.hpp"
#include "blocks/block_pool.hpp"
#include "fixture.hpp"
#include "memory/chunk.hpp"
#include "memory/mimalloc.hpp"
#include "system_files.hpp"

using namespace memory_test;

namespace {

using Buffers = std::vector<PinnedBuffer<std::byte>>;

std::size_t resident() {
  std::ifstream file("/proc/self/statm");
  std::size_t pages = 0;
  file >> pages >> pages;
  return pages * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

/// As many as there are, of 64 bytes; says why there are no more.
std::string fill(const PinnedHeap& heap, Buffers& buffers, std::size_t most = SIZE_MAX) {
  while (buffers.size() < most) {
    auto made = heap.try_make_buffer<std::byte>(64);
    if (!made) {
      CHECK(made.error().errc() == Errc::out_of_memory);
      return made.error().what();
    }
    buffers.push_back(std::move(*made));
  }
  return {};
}

/// The process's records are in a container of 200 MiB.
struct Container {
  Container() {
    system.write("sys/fs/cgroup/memory.max", std::to_string(200 * MiB));
    use(100 * MiB);
    ask_limits_again();
  }
  ~Container() { ask_limits_again(); }
  Container(const Container&) = delete;
  Container& operator=(const Container&) = delete;
  void use(std::size_t bytes) const { system.write("sys/fs/cgroup/memory.current", std::to_string(bytes)); }

  System system;
  MachineRoot root{system.root};
};

}  // namespace

TEST_CASE("a million small buffers take 97 bytes each of ordinary memory, which goes back when they do") {
  constexpr std::size_t count = 1'000'000;
  const auto device = Device::simulated();
  const PinnedArena arena(device, {.bytes = 128 * MiB});
  const PinnedHeap heap(arena);
  Buffers buffers(count);
  buffers.clear();
  trim_records();
  const std::size_t before = arena.stats().bookkeeping, resident_before = resident();
  CHECK(fill(heap, buffers, count).empty());
  const std::size_t more = arena.stats().bookkeeping - before;
  CHECK(more >= count * sizeof(Block) - 4 * MiB);  // idle slabs keep a page
  CHECK(more <= count * 97);
  // What this process kept idle before is used again.
  if (!THOLE_TEST_SANITIZED) CHECK(resident() - resident_before >= more - 16 * MiB);
  SUBCASE("once the arena is trimmed") {
    buffers.clear();
    const std::size_t trimmed = PinnedArena(arena).trim();
    CHECK(trimmed == 0);
    CHECK(arena.stats().bookkeeping - before <= 2 * MiB);
    if (!THOLE_TEST_SANITIZED) CHECK(resident() - std::min(resident(), resident_before) <= 8 * MiB);
  }
  SUBCASE("but for some, once nothing else keeps them") {
    buffers.clear();
    (void)heap.make_buffer<std::byte>(arena.stats().largest_free +
                                      MiB);  // finds room where all that is kept is given up
    CHECK(arena.stats().bookkeeping - before <= 12 * MiB);
  }
}

TEST_CASE("where a limit leaves no memory for records, a buffer is refused in words, until there is some again") {
  const PinnedArena arena(Device::simulated(), {.bytes = 64 * MiB});
  const PinnedHeap heap(arena);
  trim_records();
  const Container container;
  Buffers buffers;
  CHECK(fill(heap, buffers, 1000).empty());
  container.use(199 * MiB);  // leaves some, which the program may need for itself
  const std::string why = fill(heap, buffers);
  CHECK(says(why, "buffer's record"));
  CHECK(says(why, "memory.max is " + std::to_string(200 * MiB)));
  CHECK(says(why, std::to_string(199 * MiB) + " bytes (199 MiB) is in use"));
  REQUIRE(buffers.size() < 500'000);  // it was not the arena

  buffers.pop_back();  // leaves its record
  CHECK(heap.try_make_buffer<std::byte>(64).has_value());
  CHECK(fill(heap, buffers).size() > 0);
  container.use(100 * MiB);
  while (!heap.try_make_buffer<std::byte>(64)) std::this_thread::yield();
}

TEST_CASE("raw addresses take little more ordinary memory than buffers, which counts, and goes back when they do") {
  const auto fill_with = [](const PinnedHeap& heap, std::size_t bytes, std::vector<void*>& all) {
    while (const auto made = heap.try_allocate(bytes)) all.push_back(*made);
  };
  for (const std::size_t bytes : {std::size_t{16} << 10, std::size_t{1} << 10, std::size_t{64}}) {
    CAPTURE(bytes);
    trim_records();
    BlockIndex::trim();
    const std::size_t nothing = record_bytes();
    {
      PinnedArena arena(Device::simulated(), {.bytes = 64 * MiB});
      const PinnedHeap heap(arena);
      std::vector<void*> all(64 * MiB / bytes);
      all.clear();
      (void)heap.deallocate(heap.allocate(bytes));
      const std::size_t before = arena.stats().bookkeeping, resident_before = resident();
      fill_with(heap, bytes, all);
      const std::size_t more = arena.stats().bookkeeping - before;
      CHECK(more <= all.size() * (97 + 2 * sizeof(void*)) + 64 * KiB);
      if (!THOLE_TEST_SANITIZED) CHECK(resident() - std::min(resident(), resident_before) <= more + 2 * MiB);
      for (void* const data : all) CHECK(heap.deallocate(data));
      (void)arena.trim();
      CHECK(arena.stats().bookkeeping - before <= 2 * MiB);
      if (!THOLE_TEST_SANITIZED) CHECK(resident() - std::min(resident(), resident_before) <= 3 * MiB);
      fill_with(heap, bytes, all);
      for (void* const data : all) (void)heap.deallocate(data);
    }
    trim_records();  // of blocks; what goes with an arena's addresses has gone with the arena
    CHECK(record_bytes() - std::min(nothing, record_bytes()) <= MiB);
  }
}

TEST_CASE("where a limit leaves no memory for the index of raw addresses, one is refused, and no block is lost") {
  const PinnedArena arena(Device::simulated(), {.bytes = 64 * MiB});
  const PinnedHeap heap(arena);
  trim_records();
  Buffers buffers;
  CHECK(fill(heap, buffers, 300'000).empty());
  buffers.clear();  // their records are there
  const Container container;
  container.use(199 * MiB);
  std::vector<void*> all;
  for (;;) {
    const auto made = heap.try_allocate(64);
    if (!made) {
      CHECK(made.error().errc() == Errc::out_of_memory);
      break;
    }
    all.push_back(*made);
    REQUIRE(all.size() < 300'000);
  }
  for (void* const data : all) CHECK(heap.deallocate(data));
  CHECK(heap.stats().in_use == 0);
}

TEST_CASE("a slot for what is in use already is there beyond a limit") {
  trim_records();
  const Container container;
  container.use(200 * MiB);
  std::vector<Use*> slots;
  while (Use* const slot = acquire_slot(false)) slots.push_back(slot);
  for (int i = 0; i != 100; ++i) {
    slots.push_back(acquire_slot(true));
    REQUIRE(slots.back() != nullptr);
  }
  for (Use* const slot : slots) release_slot(slot);
}

TEST_CASE("what mimalloc keeps of a region for itself is nobody else's, also where a limit leaves hardly a record") {
  REQUIRE(start_mimalloc());
  std::vector<Mapping*> mappings;
  for (std::size_t left = 0; left != 5; ++left) {
    do {  // mimalloc has not been told of it
      const auto mapping = map_memory(least_parked, false);
      REQUIRE(mapping);
      mappings.push_back(*mapping);
    } while (mappings.back()->chunks != nullptr);
    Region region;
    region.mapping = mappings.back();
    region.data = region.mapping->data;
    region.bytes = region.pinned_bytes = least_parked;
    Extents extents;
    Chunks chunks(extents);
    REQUIRE(extents.add(region));
    REQUIRE(chunks.add(region));
    Blocks records;
    {
      const Container container;
      container.use(200 * MiB);
      ask_limits_again();
      while (Block* const record = acquire_block()) records.push_back(record);
      for (std::size_t i = 0; i != left; ++i) {
        release_block(records.back());
        records.pop_back();
      }
      Block* const block = chunks.take(64, 64);
      const Chunk* const chunk = region.mapping->chunks->chunks.front();
      CAPTURE(left);
      if (chunk != nullptr && chunk->own_bytes != 0) {
        REQUIRE(chunk->own != nullptr);
        CHECK(chunk->own->data == region.data);
        CHECK(chunk->own->capacity == chunk->own_bytes);
        CHECK(chunk->extent != nullptr);  // it was told of it when there were records for both
      }
      if (block != nullptr) chunks.give(block);
    }
    for (Block* const record : records) release_block(record);
    // Where there was no record there is a chunk once there is one.
    chunks.look_again(MiB);
    Block* const block = chunks.take(64, 64);
    CHECK(block != nullptr);
    if (block != nullptr) chunks.give(block);
    chunks.lend_back();
    CHECK(extents.free_bytes() == region.bytes - region.mapping->kept_bytes);
    chunks.remove(region);
    CHECK(extents.remove(region));
  }
  for (Mapping* const mapping : mappings) unmap_memory(mapping);
}

TEST_CASE("what a limit leaves is asked for a part at a time, so that others find the rest") {
  const PinnedArena arena(Device::simulated(), {.bytes = 64 * MiB});
  const PinnedHeap heap(arena);
  trim_records();
  const Container container;
  container.use(184 * MiB);  // leaves 16, of which 1 may be had without asking again
  const std::size_t before = record_bytes();
  Buffers buffers;
  CHECK(fill(heap, buffers, 5000).empty());
  container.use(200 * MiB);
  (void)fill(heap, buffers);
  CHECK(record_bytes() - before <= MiB);
}

TEST_CASE("records stay where they are while somebody looks at all of them") {
  const PinnedArena arena(Device::simulated(), {.bytes = 64 * MiB});
  const PinnedHeap heap(arena);
  Buffers buffers;
  CHECK(fill(heap, buffers, 100'000).empty());
  buffers.clear();
  (void)PinnedArena(arena).trim();
  CHECK(fill(heap, buffers, 100'000).empty());
  std::size_t during = 0;
  for_each_record([&](const Block&) {
    if (during != 0) return;
    std::thread([&] {
      buffers.clear();
      (void)PinnedArena(arena).trim();
    }).join();
    during = record_bytes();
  });
  CHECK(during >= 100'000 * sizeof(Block));
  trim_records();
  CHECK(record_bytes() < during - 4 * MiB);
}

TEST_CASE("records stay where they are while a picture of the arena is made") {
  const PinnedArena arena(Device::simulated(), {.bytes = 64 * MiB});
  const PinnedHeap heap(arena);
  Buffers buffers;
  CHECK(fill(heap, buffers, 100'000).empty());
  buffers.clear();
  (void)PinnedArena(arena).trim();
  CHECK(fill(heap, buffers, 100'000).empty());
  // Who writes the picture still has the blocks in hand.
  struct Trimming : std::streambuf {
    std::streamsize xsputn(const char*, std::streamsize count) override {
      if (trim) std::thread(std::exchange(trim, nullptr)).join();
      return count;
    }
    std::function<void()> trim;
  } buffer;
  std::size_t during = 0;
  buffer.trim = [&] {
    buffers.clear();
    (void)PinnedArena(arena).trim();
    during = record_bytes();
  };
  std::ostream out(&buffer);
  arena.draw_svg(out);
  CHECK(during >= 100'000 * sizeof(Block));
  trim_records();
  CHECK(record_bytes() < during - 4 * MiB);
}

TEST_CASE("threads make, copy and drop buffers while others report, drain and trim") {
  const auto device = Device::simulated();
  const PinnedArena arena(device, {.bytes = 16 * MiB});
  const PinnedHeap heap(arena);
  std::atomic<bool> done{false};
  std::vector<std::thread> threads;
  for (int thread = 0; thread != 2; ++thread)
    threads.emplace_back([&] {
      const Stream stream(device);
      for (int round = 0; round != 20; ++round) {
        Buffers buffers;
        for (int i = 0; i != 3000; ++i) buffers.push_back(heap.make_buffer<std::byte>(64));
        for (int i = 0; i < 3000; i += 30) {
          const auto copied = std::move(buffers[static_cast<std::size_t>(i)]).async_to_device(stream);
        }
      }
      done = true;
    });
  threads.emplace_back([&] {
    while (!done) {
      (void)heap.report();
      heap.drain();
    }
  });
  threads.emplace_back([&] {
    while (!done) (void)PinnedArena(arena).trim();
  });
  for (std::thread& thread : threads) thread.join();
  heap.drain();
  CHECK(heap.stats().in_use == 0);
  CHECK(heap.report().blocks.empty());
}
