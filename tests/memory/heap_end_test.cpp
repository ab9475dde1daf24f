// A heap ends with its last block, on whichever thread that comes back; the object then serves the next heap.

#include <atomic>
#include <optional>
#include <thread>

#include <thole/thole.hpp>

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

TEST_CASE("the end of a heap whose last buffer another thread drops at that moment is not the end of the next heap") {
  const auto device = thole::Device::simulated({.stepped = true});
  const thole::PinnedArena arena(device, {.bytes = MiB});
  constexpr int rounds = 2000;
  std::optional<thole::PinnedBuffer<std::byte>> last;
  std::atomic<int> turn{0};  // release, acquire: hands `last` over
  std::thread other([&] {
    for (int round = 1; round <= rounds; ++round) {
      while (turn.load(std::memory_order_acquire) != round) std::this_thread::yield();
      last.reset();
      turn.store(-round, std::memory_order_release);
    }
  });
  for (int round = 1; round <= rounds; ++round) {
    std::optional<thole::PinnedHeap> heap(arena);
    last.emplace(heap->make_buffer<std::byte>(64));
    turn.store(round, std::memory_order_release);
    heap.reset();
    const thole::PinnedHeap next(arena);
    const auto buffer = next.make_buffer<std::byte>(64, std::byte{7});
    while (turn.load(std::memory_order_acquire) != -round) std::this_thread::yield();
    CHECK(next.stats().in_use == 64);
    CHECK(buffer.borrow()[63] == std::byte{7});
  }
  other.join();
  CHECK(thole::PinnedHeap(arena).try_make_buffer<std::byte>(arena.capacity()).has_value());
}
