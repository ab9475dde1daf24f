#include "blocks/block_index.hpp"

#include <algorithm>
#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include "blocks/block_pool.hpp"

using namespace thole::detail;

namespace {

// Only addresses count: nobody looks into the memory.
std::byte* address(std::size_t number) { return reinterpret_cast<std::byte*>(number); }

constexpr std::size_t base = std::size_t{0x5000} << 32;
constexpr std::size_t leaf = std::size_t{32} << 20;

std::unique_ptr<Block> block(std::size_t at, std::size_t bytes) {
  auto made = std::make_unique<Block>();
  made->data = address(at);
  made->capacity = bytes;
  return made;
}

Block* starting_at(const void* at) { return BlockIndex::at(at, nullptr); }
Block* around(const void* at) { return BlockIndex::around(at, nullptr); }
Block* remove(const void* at) { return BlockIndex::remove(at, nullptr); }

}  // namespace

TEST_CASE("a block is found by its start, and by every address in it, until it is removed") {
  for (const std::size_t at : {base, base + 64, base + leaf - 64, base + 5 * leaf + 4096})
    for (const std::size_t bytes : {std::size_t{64}, std::size_t{4096}, std::size_t{1} << 20, 3 * leaf}) {
      const auto made = block(at, bytes);
      CHECK(around(address(at)) == nullptr);
      REQUIRE(BlockIndex::add(*made));
      CHECK(starting_at(address(at)) == made.get());
      for (const std::size_t inside : {std::size_t{0}, std::size_t{1}, bytes / 2, bytes - 1})
        CHECK(around(address(at + inside)) == made.get());
      CHECK(starting_at(address(at + 1)) == nullptr);
      CHECK(around(address(at - 1)) == nullptr);
      CHECK(around(address(at + bytes)) == nullptr);
      CHECK(remove(address(at + 1)) == nullptr);
      CHECK(remove(address(at)) == made.get());
      CHECK(remove(address(at)) == nullptr);
      CHECK(around(address(at)) == nullptr);
    }
}

TEST_CASE("the nearest start below an address is the one that counts") {
  std::vector<std::unique_ptr<Block>> blocks;
  std::size_t at = base + 40 * leaf;
  for (std::size_t i = 0; i != 3000; ++i) {
    blocks.push_back(block(at, 64 * (1 + i % 37)));
    REQUIRE(BlockIndex::add(*blocks.back()));
    at += blocks.back()->capacity + (i % 3) * 64;
  }
  for (const auto& made : blocks) {
    CHECK(around(made->data) == made.get());
    CHECK(around(made->data + made->capacity - 1) == made.get());
  }
  for (const auto& made : blocks) CHECK(remove(made->data) == made.get());
}

TEST_CASE("an address that is nobody's is told at once, wherever it is") {
  const auto long_one = block(base, 8 * leaf);
  REQUIRE(BlockIndex::add(*long_one));
  int local = 0;
  for (const void* const foreign :
       {static_cast<const void*>(&local), static_cast<const void*>(nullptr),
        static_cast<const void*>(address(base + 8 * leaf)), static_cast<const void*>(address(~std::size_t{0} - 63))}) {
    CHECK(starting_at(foreign) == nullptr);
    CHECK(around(foreign) == nullptr);
    CHECK(remove(foreign) == nullptr);
  }
  CHECK(remove(long_one->data) == long_one.get());
}

TEST_CASE("a block is of its heap, and of no other") {
  const auto made = block(base + 200 * leaf, 4096);
  int heaps[2];
  const auto heap = [&](int index) { return reinterpret_cast<HeapCore*>(&heaps[index]); };
  made->heap = heap(0);
  REQUIRE(BlockIndex::add(*made));
  CHECK(BlockIndex::at(made->data, heap(1)) == nullptr);
  CHECK(BlockIndex::around(made->data + 1, heap(1)) == nullptr);
  CHECK(BlockIndex::remove(made->data, heap(1)) == nullptr);
  CHECK(BlockIndex::at(made->data, heap(0)) == made.get());
  CHECK(BlockIndex::around(made->data + 1, heap(0)) == made.get());
  CHECK(BlockIndex::remove(made->data, heap(0)) == made.get());
}

TEST_CASE("blocks of all sizes share a stripe of addresses, in whatever order they come") {
  std::size_t sizes[] = {64, 128, 8192, 64, 4096, 192, 16384, 20 << 20};
  std::ranges::sort(sizes);
  do {
    std::vector<std::unique_ptr<Block>> blocks;
    std::size_t at = base + 300 * leaf + 4096;
    for (const std::size_t bytes : sizes) {
      blocks.push_back(block(at, bytes));
      REQUIRE(BlockIndex::add(*blocks.back()));
      at += bytes;
    }
    for (const auto& made : blocks)
      for (const std::size_t inside : {std::size_t{0}, std::size_t{63}, made->capacity - 1})
        CHECK(around(made->data + inside) == made.get());
    for (const auto& made : blocks) CHECK(remove(made->data) == made.get());
    if (sizes[0] == 128) BlockIndex::trim();  // else the tables stay as they are
  } while (std::ranges::next_permutation(sizes).found);
}

TEST_CASE("the index counts as records do, and gives back the tables of addresses where nothing is") {
  std::vector<std::unique_ptr<Block>> blocks;
  BlockIndex::trim();
  const auto before = record_bytes();
  const auto add = [&](std::size_t at, std::size_t bytes) {
    blocks.push_back(block(base + 400 * leaf + at, bytes));
    REQUIRE(BlockIndex::add(*blocks.back()));
  };
  for (std::size_t at = 0; at != leaf; at += 16 << 10) add(at, 16 << 10);
  const auto of_large = record_bytes() - before;
  CHECK(of_large >= leaf / (64 << 10) * 4 * sizeof(Block*));
  CHECK(of_large <= 48 << 10);  // with what stays
  for (std::size_t at = 0; at != leaf; at += 128) add(2 * leaf + at, 64);
  CHECK(record_bytes() - before - of_large >= leaf / 64 * sizeof(Block*));
  CHECK(record_bytes() - before - of_large <= leaf / 64 * sizeof(Block*) + (16 << 10));

  BlockIndex::trim();  // of what is there nothing goes
  for (const auto& made : blocks) CHECK(remove(made->data) == made.get());
  BlockIndex::trim(address(base + 402 * leaf), leaf / 2);
  CHECK(record_bytes() - before - of_large >= leaf / 128 * sizeof(Block*));
  CHECK(record_bytes() - before - of_large <= leaf / 128 * sizeof(Block*) + (16 << 10));
  BlockIndex::trim();
  CHECK(record_bytes() - before <= 32 << 10);
}

TEST_CASE("a block is found while others come and go beside it, and of two who remove one, one gets it") {
  const auto kept = block(base + 100 * leaf + 4096, 4096);
  const auto shared = block(base + 100 * leaf + 64, 64);
  REQUIRE(BlockIndex::add(*kept));
  std::atomic<int> got{0}, misses{0};
  std::atomic<int> turn{0};
  std::vector<std::thread> threads;
  for (std::size_t number = 0; number != 2; ++number)
    threads.emplace_back([&, number] {
      const auto own = block(base + 100 * leaf + (number == 0 ? 4096 - 64 : 8192), 64);
      for (int round = 0; round != 2000; ++round) {
        if (!BlockIndex::add(*own) || around(kept->data + 4095) != kept.get()) ++misses;
        if (remove(own->data) != own.get()) ++misses;
        if (number == 0 && !BlockIndex::add(*shared)) ++misses;
        ++turn;
        while (turn.load() < 2 * (2 * round + 1)) std::this_thread::yield();
        if (remove(shared->data) != nullptr) ++got;
        ++turn;
        while (turn.load() < 2 * (2 * round + 2)) std::this_thread::yield();
      }
    });
  for (auto& thread : threads) thread.join();
  CHECK(got.load() == 2000);
  CHECK(misses.load() == 0);
  CHECK(remove(kept->data) == kept.get());
}
