// When memory runs out: every block that was handed out is pinned, and nothing is lost.

#include <cstdint>
#include <random>
#include <thread>

#include <thole/config.hpp>

#include "fixture.hpp"

using namespace memory_test;

TEST_CASE("an arena filled with blocks of one size holds each of them whole, aligned and apart from the others") {
  const Machine machine;
  const OpenStore store(machine, 128 * MiB);
  for (const std::size_t alignment : {std::size_t{1}, std::size_t{64}, std::size_t{256}, std::size_t{4096}})
    for (const std::size_t bytes :
         {std::size_t{1}, std::size_t{1000}, std::size_t{4096}, 33 * KiB, 128 * KiB, 3 * MiB}) {
      if (bytes == 1 && alignment != 64) continue;  // a million blocks: once is enough
      CAPTURE(bytes);
      CAPTURE(alignment);
      Blocks blocks = fill(*store, bytes, alignment);
      CHECK(blocks.size() > 0);
      CHECK(sound(*store, blocks, alignment));
      free_all(*store, blocks);
      CHECK(all_free(*store));
    }
}

TEST_CASE(
    "an arena filled with blocks of random sizes and alignments never hands out memory from outside its regions") {
  const Machine machine;
  const OpenStore store(machine, 40 * MiB, 200 * MiB);
  std::mt19937_64 random(7);
  for (int round = 0; round < 20; ++round) {
    Blocks blocks;
    for (;;) {
      const std::size_t bytes = std::size_t{1} << random() % 23;
      const std::size_t some = bytes + random() % bytes;
      const std::size_t alignment = std::size_t{1} << random() % 13;
      Block* const block = take(*store, some, alignment);
      if (block == nullptr) {
        if (round < 10) break;  // as it is
        const std::size_t seen = store->growths();
        if (!store->grow(some, seen)) break;
        continue;
      }
      CHECK(reinterpret_cast<std::uintptr_t>(block->data) % alignment == 0);
      CHECK(block->capacity >= some);
      blocks.push_back(block);
    }
    CHECK(sound(*store, blocks));
    std::shuffle(blocks.begin(), blocks.end(), random);
    free_all(*store, blocks);
    CHECK(all_free(*store));
  }
}

TEST_CASE("a failed allocation costs nothing, and the next one that fits succeeds") {
  const Machine machine;
  const OpenStore store(machine, 128 * MiB);
  Blocks blocks = fill(*store, 64 * KiB);
  const StoreStats before = store->stats();
  for (const std::size_t bytes : {64 * KiB, 1 * MiB, 128 * MiB, 1 * GiB, SIZE_MAX / 2, SIZE_MAX - 63})
    CHECK(take(*store, bytes, 64) == nullptr);
  const StoreStats after = store->stats();
  CHECK(after.handed_out == before.handed_out);
  CHECK(after.capacity == before.capacity);
  give(*store, blocks.back());
  blocks.back() = take(*store, 64 * KiB, 64);
  CHECK(blocks.back() != nullptr);
  free_all(*store, blocks);
}

TEST_CASE("a request is refused only where no free piece has room for it, whatever was refused, came and went before") {
  const Machine machine;
  std::mt19937 random(3);
  for (int round = 0; round != 20; ++round) {
    const OpenStore store(machine, MiB);
    Block* const whole = take(*store, MiB, 64);
    REQUIRE(whole != nullptr);
    std::byte* const begin = whole->data;
    give(*store, whole);
    Blocks held;
    const auto has_room = [&](std::size_t bytes, std::size_t alignment) {
      std::sort(held.begin(), held.end(), [](const Block* a, const Block* b) { return a->data < b->data; });
      std::byte* free = begin;
      for (std::size_t i = 0; i <= held.size(); ++i) {
        const std::byte* const end = i != held.size() ? held[i]->data : begin + MiB;
        if (align_up(free, alignment) + bytes <= end) return true;
        if (i != held.size()) free = held[i]->data + held[i]->capacity;
      }
      return false;
    };
    int refused = 0;
    for (int i = 0; i != 3000; ++i) {
      const std::size_t bytes = 64 * (1 + random() % (random() % 3 == 0 ? 128 : 70));
      const std::size_t alignment = std::size_t{64} << (random() % 2 == 0 ? 6 : random() % 7);
      if (Block* const block = take(*store, bytes, alignment); block != nullptr) {
        held.push_back(block);
      } else {
        ++refused;
        REQUIRE_FALSE(has_room(Extents::rounded(bytes), alignment));
      }
      for (std::size_t drops = refused != 0 ? random() % 2 : 0; drops != 0 && !held.empty(); --drops) {
        std::swap(held[random() % held.size()], held.back());
        give(*store, held.back());
        held.pop_back();
      }
    }
    CHECK(refused > 100);
    free_all(*store, held);
  }
}

TEST_CASE("when mimalloc's chunks are full, small blocks come from what else is free") {
  const Machine machine;
  const OpenStore store(machine, 256 * MiB);
  Blocks large;
  // Only a little is left for small blocks, too little for a chunk.
  for (int i = 0; i < 248; ++i) large.push_back(take(*store, 1 * MiB, 64));
  Blocks small = fill(*store, 512);
  CHECK(std::none_of(small.begin(), small.end(), from_mimalloc));
  CHECK(small.size() == (8 * MiB - store->stats().wasted) / 512);
  CHECK(sound(*store, small, 64));
  free_all(*store, large);
  free_all(*store, small);
  small = fill(*store, 512);
  CHECK(std::any_of(small.begin(), small.end(), from_mimalloc));
  CHECK(sound(*store, small, 64));
  free_all(*store, small);
  CHECK(store->stats().largest_free + store->stats().wasted == 256 * MiB);
}

TEST_CASE("one small block does not keep an arena's memory from large ones") {
  const Machine machine;
  for (const std::size_t bytes : {1 * MiB, 32 * MiB, 64 * MiB, 128 * MiB, 256 * MiB}) {
    CAPTURE(bytes);
    const OpenStore store(machine, bytes);
    Block* const small = take(*store, 64, 64);
    Block* const large = take(*store, bytes / 4 * 3 - 4096, 64);
    CHECK(large != nullptr);
    give(*store, small);
    if (large != nullptr) give(*store, large);
  }
}

TEST_CASE("a single block may take the whole arena") {
  const Machine machine;
  for (const std::size_t bytes : {std::size_t{4096}, 1 * MiB, 96 * MiB, 160 * MiB}) {
    const OpenStore store(machine, bytes);
    Block* const all = take(*store, bytes, 4096);
    REQUIRE(all != nullptr);
    CHECK(all->capacity == bytes);
    give(*store, all);
  }
}

TEST_CASE("an arena of one byte is one page, and serves small blocks") {
  const Machine machine;
  const OpenStore store(machine, 1);
  CHECK(store->capacity() == 4096);
  Blocks blocks = fill(*store, 1);
  CHECK(blocks.size() == 64);
  CHECK(sound(*store, blocks, 64));
  free_all(*store, blocks);
}

TEST_CASE("threads that exhaust one store at once get blocks that nobody else has") {
  const Machine machine;
  const OpenStore store(machine, 128 * MiB);
  for (const std::size_t bytes : {std::size_t{512}, 20 * KiB, 200 * KiB}) {
    std::vector<Blocks> by_thread(4);
    std::vector<std::thread> threads;
    for (Blocks& blocks : by_thread)
      threads.emplace_back([&store, &blocks, bytes] {
        Block* some[16];
        while (const std::size_t made = store->allocate_batch(bytes, 64, some, 16)) {
          for (std::size_t i = 0; i < made; ++i) some[i]->data[bytes - 1] = std::byte{1};
          blocks.insert(blocks.end(), some, some + made);
        }
      });
    for (std::thread& thread : threads) thread.join();
    Blocks all;
    for (const Blocks& blocks : by_thread) all.insert(all.end(), blocks.begin(), blocks.end());
    CHECK(sound(*store, all, 64));
    CHECK(all.size() * bytes > 128 * MiB / 100 * 90);
    free_all(*store, all);
    CHECK(all_free(*store));
  }
}
