// A heap ends with its last block, on whichever thread that comes back; the object then serves the next heap.

#include "fixture.hpp"

#include "heap/arena_core.hpp"
#include "heap/heap_core.hpp"

using namespace memory_test;

TEST_CASE("a thread that brings back a heap's last block late does not end the heap that comes after it") {
  const Machine machine;
  auto store = Store::open(machine.device, {1 * MiB, 1 * MiB, {PinMethod::register_pages, -1}});
  REQUIRE(store);
  const auto arena = std::make_shared<ArenaCore>(machine.device, *store);

  HeapCore* const first = HeapCore::open(arena, 64);
  first->close();
  HeapCore* const next = HeapCore::open(arena, 64);
  REQUIRE(next == first);
  next->end_if_all_back();  // the late thread's: it counted its block before first->close() found all of them back

  Block* const block = next->take_from_store({64, 64, 64});
  REQUIRE(block != nullptr);
  CHECK(&next->arena() == arena.get());
  next->close();
  next->release(block);
  CHECK((*store)->stats().handed_out == 0);
}
