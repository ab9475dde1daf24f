// lib/heap/thread_cache.hpp

#include "heap/thread_cache.hpp"

#include <doctest/doctest.h>

#include <memory>
#include <vector>

using namespace thole::detail;

namespace {

constexpr std::size_t KiB = 1024;
alignas(page) std::byte memory[2 * page];

/// Blocks that lie anywhere: a cache never touches their memory.
struct Blocks {
  Block* at(std::byte* data, std::size_t capacity) {
    made.push_back(std::make_unique<Block>());
    made.back()->data = data;
    made.back()->capacity = capacity;
    return made.back().get();
  }
  std::vector<std::unique_ptr<Block>> made;
};

}  // namespace

TEST_CASE("a kept block serves a request only where it is large enough and aligned for it") {
  Blocks blocks;
  ThreadCache cache;
  Block* const block = blocks.at(memory + 64, KiB);
  REQUIRE(cache.put(block, 0));
  CHECK(cache.take(KiB, 128) == nullptr);
  CHECK(cache.take(2 * KiB, 64) == nullptr);
  CHECK(cache.take(KiB, 64) == block);
  CHECK(cache.take(KiB, 64) == nullptr);
}

TEST_CASE("an aligned block is found behind some that are not") {
  Blocks blocks;
  ThreadCache cache;
  Block* const aligned = blocks.at(memory + page, KiB);
  REQUIRE(cache.put(aligned, 0));
  for (std::size_t i = 0; i != 5; ++i) REQUIRE(cache.put(blocks.at(memory + 64 + i * KiB, KiB), 0));
  CHECK(cache.take(KiB, page) == aligned);
}

TEST_CASE("a cache that is full of a class refuses, and makes room by giving half of the class away") {
  Blocks blocks;
  ThreadCache cache;
  constexpr std::size_t bytes = 64 * KiB;
  const std::size_t most = size_class::kept(size_class::index(bytes));
  for (std::size_t i = 0; i != most; ++i) REQUIRE(cache.put(blocks.at(memory, bytes), 0));
  CHECK(cache.bytes() == most * bytes);
  Block* const one_more = blocks.at(memory, bytes);
  CHECK_FALSE(cache.put(one_more, 0));
  MovingBlocks out;
  cache.make_room(*one_more, out);
  CHECK(cache.bytes() == most / 2 * bytes);
  CHECK(cache.put(one_more, 0));
  cache.flush(out);
  CHECK(cache.bytes() == 0);
  std::size_t count = 0;
  while (out.pop() != nullptr) ++count;
  CHECK(count == most + 1);
}

TEST_CASE("large blocks of all classes together are kept up to the limit") {
  Blocks blocks;
  ThreadCache cache;
  CHECK(cache.put(blocks.at(memory, 100 * page), 200 * page));
  CHECK_FALSE(cache.put(blocks.at(memory, 101 * page), 200 * page));
  CHECK(cache.put(blocks.at(memory, 90 * page), 200 * page));
  CHECK(cache.take(100 * page, page) != nullptr);
  CHECK(cache.put(blocks.at(memory, 101 * page), 200 * page));
}
