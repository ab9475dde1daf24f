// A heap ends with its last block, on whichever thread that comes back; the object then serves the next heap.

#include <thread>

#include "fixture.hpp"

#include "heap/arena_core.hpp"
#include "heap/heap_core.hpp"

using namespace memory_test;

TEST_CASE("a closed heap ends with the last of its blocks, and not before") {
  const Machine machine;
  auto store = Store::open(machine.device, {1 * MiB, 1 * MiB, {PinMethod::register_pages, -1}});
  REQUIRE(store);
  auto arena = std::make_shared<ArenaCore>(machine.device, *store);

  HeapCore* const heap = HeapCore::open(arena, {.alignment = 64});
  Block* const first = heap->take_from_store({64, 64, 64});
  Block* const second = heap->take_from_store({64, 64, 64});
  heap->close();
  std::thread([&] { heap->release(first); }).join();
  HeapCore* const other = HeapCore::open(arena, {.alignment = 64});
  CHECK(other != heap);
  CHECK(arena.use_count() == 3);
  heap->release(second);
  CHECK(arena.use_count() == 2);

  HeapCore* const next = HeapCore::open(arena, {.alignment = 64});
  CHECK(next == heap);  // the object serves another heap, which has nothing of the one before
  CHECK(next->sum_counts().made == 0);
  next->close();
  other->close();
  CHECK(arena.use_count() == 1);
  arena->flush();
  CHECK((*store)->stats().handed_out == 0);
}
