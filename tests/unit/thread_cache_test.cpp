// lib/heap/thread_cache.hpp and lib/heap/depot.hpp

#include "heap/thread_cache.hpp"

#include <doctest/doctest.h>

#include <vector>

#include "backend/device_core.hpp"
#include "backend/simulated/backend.hpp"

using namespace thole::detail;

namespace {

constexpr std::size_t KiB = 1024, MiB = 1024 * KiB;

/// A store, its depot, and a cache before them.
struct Place {
  explicit Place(std::size_t bytes = 64 * MiB)
      : store(
            **Store::open(std::make_shared<DeviceCore>(std::make_shared<SimulatedBackend>(thole::SimulationOptions{})),
                          {.bytes = bytes, .max_bytes = bytes, .region = {}})),
        depot(store) {
    cache.set_capacity(bytes, bytes);
  }
  ~Place() {
    {
      MovingBlocks moving;
      free_lists(store, cache.take_all(moving));
    }
    depot.flush();
    CHECK(store.handed_out() == 0);
    store.close();
  }
  Block* make(std::size_t bytes, std::size_t alignment = granule) {
    Block* block = nullptr;
    REQUIRE(store.allocate_batch(bytes, alignment, &block, 1) == 1);
    return block;
  }
  Block* make_unaligned(std::size_t bytes) {
    Block* const block = make(bytes);
    if (!is_aligned(block->data, page)) return block;
    Block* const next = make(bytes);
    put({block});
    return next;
  }
  std::vector<Block*> make_several(std::size_t count, std::size_t bytes) {
    std::vector<Block*> blocks;
    while (blocks.size() != count) blocks.push_back(make(bytes));
    return blocks;
  }
  /// Drops them all; returns how many went on to the store.
  std::size_t put(const std::vector<Block*>& blocks) {
    MovingBlocks surplus;
    for (Block* const block : blocks)
      if (!cache.put(block)) cache.put_slowly(block, depot, surplus);
    std::size_t count = 0;
    for (; Block* block = surplus.pop(); ++count) store.free_batch(&block, 1);
    return count;
  }

  Store& store;
  Depot depot;
  ThreadCache cache;
};

}  // namespace

TEST_CASE("a kept block serves a request only where it is large enough and aligned for it") {
  Place place;
  Block* const block = place.make_unaligned(3 * KiB);
  place.put({block});
  CHECK(place.cache.take(4 * KiB, granule) == nullptr);
  CHECK(place.cache.take(3 * KiB, granule) == block);
  place.put({block});
  if (Block* const other = place.cache.take(3 * KiB, page); other != nullptr) {
    CHECK(other != block);
    place.put({other});
  }
}

TEST_CASE("an aligned block is found behind some that are not") {
  Place place;
  Block* const aligned = place.make(3 * KiB, page);
  std::vector<Block*> others;
  while (others.size() != 5) others.push_back(place.make_unaligned(3 * KiB));
  place.put({aligned});
  place.put(others);
  Block* const found = place.cache.take(3 * KiB, page);
  REQUIRE(found != nullptr);
  CHECK(is_aligned(found->data, page));
  place.put({found});
}

TEST_CASE(
    "a cache keeps a limited number of bytes of all classes together; the rest moves to the depot in whole lists") {
  Place place;  // a sixty-fourth: 1 MiB
  for (const std::size_t bytes : {64 * KiB, 32 * KiB, 4 * KiB, std::size_t{64}}) {
    CHECK(place.put(place.make_several(MiB / bytes, bytes)) == 0);
    CHECK(place.cache.bytes() <= MiB);
  }
  CHECK(place.cache.bytes() + place.depot.bytes() == 4 * MiB);
}

TEST_CASE("what one thread drops, another has in whole lists: the depot is asked once for many") {
  Place place;
  const auto blocks = place.make_several(1000, 4 * KiB);
  place.put(blocks);
  ThreadCache other;
  other.set_capacity(64 * MiB, 64 * MiB);
  const auto before = place.depot.moves();
  const auto length = size_class::list_length(size_class::index(4 * KiB), MiB);
  REQUIRE(length == 64);
  std::vector<Block*> taken;
  for (std::size_t i = 0; i != 5 * length; ++i) {
    Block* block = other.take(4 * KiB, granule);
    if (block == nullptr) block = other.take_from(place.depot, 4 * KiB, granule);
    REQUIRE(block != nullptr);
    taken.push_back(block);
  }
  CHECK(place.depot.moves() - before == 5);
  place.put(taken);
}

TEST_CASE("a cache whose heap has a limit takes no list that is longer than its own ones") {
  Place place(256 * MiB);  // lists of a quarter of 4 MiB
  place.put(place.make_several(80, 64 * KiB));
  Quota quota;
  quota.begin(64 * MiB);
  ThreadCache small, same;
  small.quota = same.quota = &quota;
  small.set_capacity(64 * MiB, 256 * MiB);
  same.set_capacity(256 * MiB, 256 * MiB);
  CHECK(small.take_from(place.depot, 64 * KiB, granule) == nullptr);
  CHECK(quota.taken() == 0);
  Block* const block = same.take_from(place.depot, 64 * KiB, granule);
  REQUIRE(block != nullptr);
  CHECK(same.bytes() == 15 * 64 * KiB);
  CHECK(quota.taken() == 16 * 64 * KiB);
  {
    MovingBlocks moving;
    free_lists(place.store, same.take_all(moving));
  }
  CHECK(quota.taken() == 64 * KiB);
  place.put({block});
}

TEST_CASE("lists have as many bytes as a quarter of what a cache may keep, and sixty-four blocks at most") {
  const auto length = [](std::size_t bytes, std::size_t limit) {
    return size_class::list_length(size_class::index(bytes), limit);
  };
  CHECK(length(64, MiB) == 64);
  CHECK(length(64 * KiB, MiB) == 4);
  CHECK(length(64 * KiB, 64 * MiB) == 64);
  CHECK(length(MiB, 64 * MiB) == 16);
  CHECK(length(64 * MiB, 64 * MiB) == 1);
}

TEST_CASE("a thread that goes back and forth about the border of a list does not go to the depot each time") {
  Place place;
  const auto blocks = place.make_several(64, 4 * KiB);
  place.put(blocks);
  const auto one_more = place.make(4 * KiB);
  const auto before = place.depot.moves();
  for (int i = 0; i != 100; ++i) {
    place.put({one_more});
    CHECK(place.cache.take(4 * KiB, granule) == one_more);
  }
  CHECK(place.depot.moves() == before);
  place.put({one_more});
}

TEST_CASE("classes that are used no more make room, in the cache and in the depot, for those that are") {
  Place place;
  const auto old = [&] {  // fills both: the depot keeps a sixteenth, 4 MiB
    std::vector<Block*> blocks;
    for (const std::size_t bytes : {20 * KiB, 24 * KiB, 28 * KiB})
      for (Block* const block : place.make_several(3 * MiB / bytes, bytes)) blocks.push_back(block);
    return blocks;
  }();
  CHECK(place.put(old) > 0);
  CHECK(place.depot.bytes() <= 4 * MiB);
  for (int i = 0; i != 50; ++i) place.put(place.make_several(3 * MiB / (4 * KiB), 4 * KiB));
  // By now all that was kept of the old ones has gone to the store, and the new ones are kept.
  std::size_t kept = 0;
  std::vector<Block*> taken;
  for (;; ++kept) {
    Block* block = place.cache.take(4 * KiB, granule);
    if (block == nullptr) block = place.cache.take_from(place.depot, 4 * KiB, granule);
    if (block == nullptr) break;
    taken.push_back(block);
  }
  CHECK(kept * 4 * KiB > 3 * MiB);
  place.put(taken);
}

TEST_CASE("a block larger than a cache may keep goes to the store") {
  Place place;
  CHECK(place.put({place.make(2 * MiB)}) == 1);
  CHECK(place.cache.bytes() == 0);
}

TEST_CASE("large blocks of one class, but of several sizes, serve whom they fit") {
  Place place;
  Block* const smaller = place.make(100 * page);
  Block* const larger = place.make(101 * page);
  place.put({smaller, larger});
  CHECK(place.cache.take(101 * page, page) == larger);
  CHECK(place.cache.take(101 * page, page) == nullptr);
  CHECK(place.cache.take(100 * page, page) == smaller);
  place.put({smaller, larger});
}
