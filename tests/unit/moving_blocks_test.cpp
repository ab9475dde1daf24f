// Whoever looks for memory knows whether free blocks passed by meanwhile.

#include <doctest/doctest.h>

#include "blocks/moving_blocks.hpp"

using namespace thole::detail;

TEST_CASE("a search beside which nothing moves has missed nothing") {
  const MemorySearch search;
  CHECK(!search.missed_some());
  const MovingBlocks empty;
  CHECK(!search.missed_some());
  CHECK(empty.empty());
}

TEST_CASE("blocks on their way, or that came and went during a search, may have been missed by it") {
  Block block;
  const MemorySearch search;
  {
    MovingBlocks blocks;
    blocks.push(&block);
    CHECK(search.missed_some());
    CHECK(blocks.pop() == &block);
    CHECK(search.missed_some());  // until it is where others find it
  }
  CHECK(search.missed_some());
  CHECK(!MovingBlocks::any());
  const MemorySearch next;
  CHECK(!next.missed_some());
}

TEST_CASE("whoever was about to move blocks and found none has moved nothing") {
  const MemorySearch search;
  {
    MovingBlocks blocks;
    blocks.begin();
    CHECK(search.missed_some());
    blocks.cancel();
  }
  CHECK(!search.missed_some());
}

TEST_CASE("a list that is spliced is on its way unless it is empty") {
  Block block;
  BlockList list;
  const MemorySearch search;
  MovingBlocks blocks;
  blocks.splice(list);
  CHECK(!search.missed_some());
  list.push(&block);
  blocks.splice(list);
  CHECK(search.missed_some());
  CHECK(list.empty());
  CHECK(blocks.pop() == &block);
}
