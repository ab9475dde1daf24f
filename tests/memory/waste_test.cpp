// How much of an arena one size can have, and that looking for memory has a bound.

#include <random>

#include "fixture.hpp"
#include "heap/size_class.hpp"
#include "memory/chunk.hpp"
#include "memory/chunks.hpp"
#include "memory/mimalloc.hpp"

using namespace memory_test;

TEST_CASE("of one size until the arena is full, at least 0.88 of it is asked for, with chunks and without") {
  const Machine machine;
  for (const std::size_t mib : {std::size_t{64}, std::size_t{256}}) {
    const OpenStore store(machine, mib * MiB);
    for (std::size_t power = 2 * KiB; power <= 64 * KiB; power *= 2)
      for (std::size_t eighths : {std::size_t{8}, std::size_t{9}, std::size_t{11}, std::size_t{15}})
        for (const std::size_t more : {std::size_t{0}, std::size_t{1}}) {
          const std::size_t bytes = power / 8 * eighths + more;
          CAPTURE(mib);
          CAPTURE(bytes);
          Blocks blocks = fill(*store, size_class::round_up(bytes));
          CHECK(static_cast<double>(blocks.size() * bytes) >= 0.88 * static_cast<double>(mib * MiB));
          free_all(*store, blocks);
        }
  }
}

TEST_CASE("up to 512 B all is mimalloc's where there are chunks, and its capacity is what mimalloc takes for it") {
  const Machine machine;
  const OpenStore store(machine, 256 * MiB);
  Blocks blocks;
  for (std::size_t bytes = 64; bytes <= Chunks::largest; bytes += 64) {
    blocks.push_back(take(*store, bytes, 64));
    REQUIRE(from_mimalloc(blocks.back()));
    CHECK(blocks.back()->capacity == good_size(bytes));
    CHECK(blocks.back()->capacity == bytes);
  }
  free_all(*store, blocks);
}

TEST_CASE("a size that mimalloc would round up comes from extents, at its own size") {
  const Machine machine;
  const OpenStore store(machine, 256 * MiB);
  Block* const small = take(*store, 64, 64);  // a chunk is active
  for (std::size_t bytes = 576; bytes <= 64 * KiB; bytes = size_class::round_up(bytes + 1)) {
    Block* const block = take(*store, bytes, 64);
    CAPTURE(bytes);
    CHECK(block->capacity == bytes);
    give(*store, block);
  }
  give(*store, small);
}

TEST_CASE("arenas in turn and at once never use up mimalloc's slots: each has small blocks from it") {
  const Machine machine;
  for (int round = 0; round != 3; ++round) {
    std::vector<std::unique_ptr<OpenStore>> stores;
    for (int i = 0; i != 6; ++i) {
      stores.push_back(std::make_unique<OpenStore>(machine, 256 * MiB));
      Block* const small = take(**stores.back(), 64, 64);
      CHECK(from_mimalloc(small));
      CHECK((*stores.back())->stats().trouble.empty());
      give(**stores.back(), small);
    }
  }
}

TEST_CASE("small blocks find a place for a chunk again once large ones have made room") {
  const Machine machine;
  const OpenStore store(machine, 256 * MiB);
  Blocks large = fill(*store, 1 * MiB);
  if (Block* const left = take(*store, 64, 64); left != nullptr) give(*store, left);  // beside mimalloc's own data
  free_all(*store, large);
  Blocks small;
  while (small.size() != 600) small.push_back(take(*store, 64, 64));
  CHECK(from_mimalloc(small.back()));
  free_all(*store, small);
}

TEST_CASE("what was refused for its alignment is found when an extent comes that fits") {
  const Machine machine;
  const OpenStore store(machine, 1 * MiB);
  Blocks blocks = fill(*store, 4096 + 64);
  Blocks odd;
  for (std::size_t i = 0; i < blocks.size(); i += 2) odd.push_back(std::exchange(blocks[i], nullptr));
  free_all(*store, odd);
  std::erase(blocks, nullptr);
  Blocks aligned = fill(*store, 4096, 4096);  // in those holes that have a whole page
  CHECK(sound(*store, aligned, 4096));
  CHECK(take(*store, 4096, 4096) == nullptr);
  Block* const unaligned = take(*store, 4096, 64);  // there are holes all the same
  CHECK(unaligned != nullptr);
  // Two neighbours make a hole with a whole page in it.
  give(*store, blocks[20]);
  give(*store, std::exchange(blocks[21], blocks.back()));
  blocks.pop_back();
  blocks.erase(blocks.begin() + 20);
  Block* const found = take(*store, 4096, 4096);
  CHECK(found != nullptr);
  for (Block* const block : {unaligned, found}) aligned.push_back(block);
  aligned.insert(aligned.end(), blocks.begin(), blocks.end());
  std::erase(aligned, nullptr);
  CHECK(sound(*store, aligned));
  free_all(*store, aligned);
}

TEST_CASE("the largest free piece is known at any time, as it would be found by looking at all") {
  const Machine machine;
  const OpenStore store(machine, 8 * MiB);
  std::mt19937 random(9);
  Blocks blocks;
  for (int step = 0; step != 3000; ++step) {
    if (random() % 2 == 0) {
      if (Block* const block = take(*store, 1 + random() % (64 * KiB), 64); block != nullptr) blocks.push_back(block);
    } else if (!blocks.empty()) {
      std::swap(blocks[random() % blocks.size()], blocks.back());
      give(*store, blocks.back());
      blocks.pop_back();
    }
    if (step % 3 != 0) continue;
    std::size_t most = 0;
    for (const StoreSpan& span : store->spans())
      if (span.kind == StoreSpan::Kind::free) most = std::max(most, span.bytes);
    if (most >= Extents::whole_pages_from) most = round_down(most, page);
    REQUIRE(store->stats().largest_free == most);
  }
  free_all(*store, blocks);
}
