#include "blocks/block_index.hpp"

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

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

}  // namespace

TEST_CASE("a block is found by its start, and by every address in it, until it is removed") {
  for (const std::size_t at : {base, base + 64, base + leaf - 64, base + 5 * leaf + 4096})
    for (const std::size_t bytes : {std::size_t{64}, std::size_t{4096}, std::size_t{1} << 20, 3 * leaf}) {
      const auto made = block(at, bytes);
      CHECK(BlockIndex::around(address(at)) == nullptr);
      REQUIRE(BlockIndex::add(*made));
      CHECK(BlockIndex::at(address(at)) == made.get());
      for (const std::size_t inside : {std::size_t{0}, std::size_t{1}, bytes / 2, bytes - 1})
        CHECK(BlockIndex::around(address(at + inside)) == made.get());
      CHECK(BlockIndex::at(address(at + 1)) == nullptr);
      CHECK(BlockIndex::around(address(at - 1)) == nullptr);
      CHECK(BlockIndex::around(address(at + bytes)) == nullptr);
      CHECK(BlockIndex::remove(address(at + 1)) == nullptr);
      CHECK(BlockIndex::remove(address(at)) == made.get());
      CHECK(BlockIndex::remove(address(at)) == nullptr);
      CHECK(BlockIndex::around(address(at)) == nullptr);
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
    CHECK(BlockIndex::around(made->data) == made.get());
    CHECK(BlockIndex::around(made->data + made->capacity - 1) == made.get());
  }
  for (const auto& made : blocks) CHECK(BlockIndex::remove(made->data) == made.get());
}

TEST_CASE("an address that is nobody's is told at once, wherever it is") {
  const auto long_one = block(base, 8 * leaf);
  REQUIRE(BlockIndex::add(*long_one));
  int local = 0;
  for (const void* const foreign :
       {static_cast<const void*>(&local), static_cast<const void*>(nullptr),
        static_cast<const void*>(address(base + 8 * leaf)), static_cast<const void*>(address(~std::size_t{0} - 63))}) {
    CHECK(BlockIndex::at(foreign) == nullptr);
    CHECK(BlockIndex::around(foreign) == nullptr);
    CHECK(BlockIndex::remove(foreign) == nullptr);
  }
  CHECK(BlockIndex::remove(long_one->data) == long_one.get());
}

TEST_CASE("who looks for a foreign address never looks into the block below it, which may be ending") {
  const auto ending = block(base + 200 * leaf, 4096);
  REQUIRE(BlockIndex::add(*ending));
  ending->data = nullptr;  // as another thread does that takes it out at this moment and uses its record again
  ending->capacity = ~std::size_t{0};
  CHECK(BlockIndex::around(address(base + 200 * leaf + 4096)) == nullptr);
  CHECK(BlockIndex::around(address(base + 200 * leaf + 4095)) == ending.get());
  CHECK(BlockIndex::remove(address(base + 200 * leaf)) == ending.get());
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
        if (!BlockIndex::add(*own) || BlockIndex::around(kept->data + 4095) != kept.get()) ++misses;
        if (BlockIndex::remove(own->data) != own.get()) ++misses;
        if (number == 0 && !BlockIndex::add(*shared)) ++misses;
        ++turn;
        while (turn.load() < 2 * (2 * round + 1)) std::this_thread::yield();
        if (BlockIndex::remove(shared->data) != nullptr) ++got;
        ++turn;
        while (turn.load() < 2 * (2 * round + 2)) std::this_thread::yield();
      }
    });
  for (auto& thread : threads) thread.join();
  CHECK(got.load() == 2000);
  CHECK(misses.load() == 0);
  CHECK(BlockIndex::remove(kept->data) == kept.get());
}
