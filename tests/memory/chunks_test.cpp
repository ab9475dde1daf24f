// What mimalloc once held serves large blocks again when it is empty, and the other way round.

#include <sys/mman.h>

#include <array>
#include <cstring>
#include <random>
#include <thread>

#include <thole/config.hpp>

#include "fixture.hpp"
#include "memory/mimalloc.hpp"

using namespace memory_test;

namespace {

// Fills the store, looks at each block, gives all back. Per cent of `bytes`.
double share(Store& store, std::size_t block_bytes, std::size_t bytes) {
  Blocks blocks = fill(store, block_bytes);
  CHECK(sound(store, blocks, 64));
  const std::size_t count = blocks.size();
  free_all(store, blocks);
  CHECK(all_free(store));
  return 100.0 * static_cast<double>(count * block_bytes) / static_cast<double>(bytes);
}

}  // namespace

TEST_CASE("97% of an arena can be had as small blocks, then as large ones, in any order, in one process") {
  const Machine machine;
  const OpenStore store(machine, 256 * MiB);
  std::vector<std::size_t> sizes{4 * KiB, 32 * KiB, 64 * KiB, 1 * MiB, 3 * MiB, 8 * MiB, 31 * MiB, 248 * MiB};
  std::mt19937 random(11);
  for (int round = 0; round < 6; ++round) {
    for (const std::size_t bytes : sizes) {
      CAPTURE(bytes);
      CHECK(share(*store, bytes, 256 * MiB) >= (bytes > 3 * MiB ? 96 : 97));
    }
    std::shuffle(sizes.begin(), sizes.end(), random);
  }
}

TEST_CASE("of 1 GiB, 97% can be had as 64 KiB, 1, 3 and 16 MiB, then nine of 100 MiB, then one of 992 MiB") {
  SimulationOptions options;
  const Machine machine(options);
  auto opened = Store::open(machine.device, {1 * GiB, 0, {PinMethod::register_pages, -1}});
  if (!opened) {
    MESSAGE("not enough memory here: " << opened.error().what());
    return;
  }
  Store& store = **opened;
  for (int round = 0; round < 2; ++round) {
    for (const std::size_t bytes : {16 * KiB, 64 * KiB, 1 * MiB, 3 * MiB, 16 * MiB}) {
      CAPTURE(bytes);
      CHECK(share(store, bytes, 1 * GiB) >= 97);
    }
    Blocks blocks = fill(store, 100 * MiB);
    CHECK(blocks.size() >= 9);
    free_all(store, blocks);
    blocks = fill(store, 992 * MiB);
    CHECK(blocks.size() == 1);
    free_all(store, blocks);
  }
  store.close();
}

TEST_CASE("a few small blocks left behind keep only their own chunk from the large ones") {
  const Machine machine;
  const OpenStore store(machine, 256 * MiB);
  Blocks small = fill(*store, 8 * KiB);
  std::mt19937 random(5);
  std::shuffle(small.begin(), small.end(), random);
  std::sort(small.begin(), small.end(), [](const Block* a, const Block* b) { return a->data < b->data; });
  Blocks left(small.begin(), small.begin() + 4);  // neighbours
  Blocks rest(small.begin() + 4, small.end());
  free_all(*store, rest);
  Blocks large = fill(*store, 1 * MiB);
  CHECK(large.size() >= 190);
  large.insert(large.end(), left.begin(), left.end());
  CHECK(sound(*store, large, 64));
  free_all(*store, large);
}

TEST_CASE("mimalloc touches nothing of a chunk that it has lent back but its own bytes") {
  // The memory of an idle chunk is made inaccessible while mimalloc works elsewhere: a touch would end this program.
  const Machine machine;
  const OpenStore busy(machine, 256 * MiB);
  const OpenStore store(machine, 256 * MiB);
  for (int round = 0; round < 3; ++round) {
    Blocks blocks;
    for (const std::size_t bytes : {std::size_t{64}, std::size_t{1000}, 5 * KiB, 32 * KiB})
      for (int i = 0; i < 300; ++i) blocks.push_back(take(*store, bytes, 64));
    REQUIRE(from_mimalloc(blocks.front()));
    std::thread([&] { free_all(*store, blocks); }).join();
    Block* const all = take(*store, store->stats().largest_free, 4096);
    REQUIRE(all != nullptr);
    CHECK(all->capacity > 254 * MiB);
    std::memset(all->data, 0xa5, all->capacity);
    REQUIRE(mprotect(all->data, all->capacity, PROT_NONE) == 0);
    for (int i = 0; i < 3; ++i)
      std::thread([&busy] {
        Blocks others = fill(*busy, 3000);
        free_all(*busy, others);
        others = fill(*busy, 10 * MiB);
        free_all(*busy, others);
      }).join();
    REQUIRE(mprotect(all->data, all->capacity, PROT_READ | PROT_WRITE) == 0);
    CHECK(std::all_of(all->data, all->data + all->capacity, [](std::byte byte) { return byte == std::byte{0xa5}; }));
    give(*store, all);
  }
}

TEST_CASE("blocks that one thread takes and another frees serve a third, while the first rests") {
  const Machine machine;
  const OpenStore store(machine, 256 * MiB);
  for (const std::size_t bytes : {std::size_t{64}, std::size_t{4096}, 32 * KiB}) {
    CAPTURE(bytes);
    Blocks blocks;
    std::thread([&] { blocks = fill(*store, bytes); }).join();
    const std::size_t all = blocks.size();
    CHECK(all * bytes > 256 * MiB / 100 * 95);
    free_all(*store, blocks);
    std::thread([&] { blocks = fill(*store, bytes); }).join();
    CHECK(blocks.size() >= all / 1000 * 999);
    CHECK(sound(*store, blocks, 64));
    std::thread([&] { free_all(*store, blocks); }).join();
  }
}

TEST_CASE("10,000 short-lived threads leave the capacity as it was at the start") {
  const Machine machine;
  const OpenStore store(machine, 256 * MiB);
  Blocks blocks = fill(*store, 4096);
  const std::size_t at_start = blocks.size();
  free_all(*store, blocks);
  Blocks alive;
  for (int i = 0; i < 10000; ++i)
    std::thread([&store, &alive, i] {
      Block* const mine = take(*store, 64 + static_cast<std::size_t>(i) % 5000, 64);
      Block* const left = take(*store, 1000, 64);  // outlives its thread
      if (mine == nullptr || left == nullptr) {
        alive.push_back(nullptr);
        return;
      }
      give(*store, mine);
      alive.push_back(left);
      if (alive.size() > 50) {
        give(*store, alive.front());
        alive.erase(alive.begin());
      }
    }).join();
  CHECK(std::find(alive.begin(), alive.end(), nullptr) == alive.end());
  free_all(*store, alive);
  CHECK(all_free(*store));
  blocks = fill(*store, 4096);
  CHECK(blocks.size() == at_start);
  free_all(*store, blocks);
}

TEST_CASE("the mimalloc that answers is the one that thole was compiled for") {
  CHECK(start_mimalloc());
  CHECK(mimalloc_trouble().empty());
  CHECK(config::region_alignment % 4096 == 0);
  CHECK(config::largest_mimalloc_block > 0);
}

TEST_CASE("mimalloc takes nothing of what others left in its places for data of its own") {
  // So large that a place has two of mimalloc's segments, of which it has seen one.
  const Machine machine;
  auto opened = Store::open(machine.device, {2 * GiB, 0, {PinMethod::register_pages, -1}});
  if (!opened) {
    MESSAGE("not enough memory here: " << opened.error().what());
    return;
  }
  Store& store = **opened;
  Blocks large = fill(store, 256 * MiB);
  REQUIRE(!large.empty());
  for (const Block* const block : large) std::memset(block->data, 0xa5, block->capacity);
  free_all(store, large);
  Blocks small;
  for (std::size_t i = 0; i != 60 * MiB / 512; ++i) {
    std::array<Block*, 1> made{};
    REQUIRE(store.allocate_batch(512, 64, made.data(), 1) == 1);
    std::memset(made[0]->data, 0x5a, 512);
    small.push_back(made[0]);
  }
  free_all(store, small);
  CHECK(all_free(store));
  store.close();
}
