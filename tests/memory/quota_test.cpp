// HeapOptions::max_bytes: what a heap may have of its arena.

#include <algorithm>
#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "heap/size_class.hpp"
#include "support/rig.hpp"

using namespace support;

namespace {

using Bytes = PinnedBuffer<std::byte>;

Rig limited_to(std::size_t quota, std::size_t bytes = 16 * MiB) {
  return Rig(under_test(), {.bytes = bytes}, {.max_bytes = quota});
}

std::vector<Bytes> fill(const PinnedHeap& heap, std::size_t bytes, Errc end) {
  std::vector<Bytes> buffers;
  for (;;) {
    auto made = heap.try_make_buffer<std::byte>(bytes);
    if (!made) {
      errc_text_of(made, end);
      return buffers;
    }
    buffers.push_back(std::move(*made));
  }
}

}  // namespace

TEST_CASE("a heap may have its quota to the last byte, of any size, and not one more") {
  for (const std::size_t size : {std::size_t{64}, 512 * std::size_t{1}, KiB, 4 * KiB, 64 * KiB, MiB}) {
    CAPTURE(size);
    const Rig rig = limited_to(2 * MiB);
    std::vector<Bytes> buffers = fill(rig.heap, size, Errc::limit);
    CHECK(buffers.size() == 2 * MiB / size);
    CHECK(rig.heap.stats().taken == 2 * MiB);
    buffers.pop_back();
    buffers.push_back(rig.heap.make_buffer<std::byte>(size));
    errc_text_of(rig.heap.try_make_buffer<std::byte>(1), Errc::limit);
  }
}

TEST_CASE("a refusal names the heap's quota and what it has") {
  const Rig rig = limited_to(MiB);
  const auto buffer = rig.heap.make_buffer<std::byte>(768 * KiB);
  const std::string text = errc_text_of(rig.heap.try_make_buffer<std::byte>(512 * KiB), Errc::limit);
  CHECK(has(text, "PinnedHeap::make_buffer"));
  CHECK(has(text, std::to_string(512 * KiB)));
  CHECK(has(text, std::to_string(MiB)));
  CHECK(has(text, std::to_string(768 * KiB)));
  CHECK(has(text, "max_bytes"));
  // More than the heap could ever have.
  CHECK(has(errc_text_of(rig.heap.try_make_buffer<std::byte>(2 * MiB), Errc::limit), "max_bytes"));
  CHECK(has(
      errc_text_of(rig.heap.try_make_buffer_for<std::byte>(512 * KiB, std::chrono::nanoseconds(1)), Errc::timed_out),
      "max_bytes"));
}

TEST_CASE("what threads keep for a heap counts, and is given back before a buffer is refused") {
  const Rig rig = limited_to(MiB);
  const auto others = PinnedHeap(rig.arena).make_buffer<std::byte>(KiB);  // an idle arena gives all back anyway
  std::thread([&] {
    std::vector<Bytes> buffers = fill(rig.heap, 4 * KiB, Errc::limit);
    buffers.clear();
    CHECK(rig.heap.stats().taken > 0);  // in this thread's cache, while it lives
    std::thread([&] { CHECK(rig.heap.make_buffer<std::byte>(MiB).size() == MiB); }).join();
    CHECK(rig.heap.make_buffer<std::byte>(MiB).size() == MiB);
  }).join();
}

TEST_CASE("what waits for the device counts until it is finished") {
  const Rig rig = limited_to(MiB);
  const Stream stream(rig.device);
  auto target = DeviceBuffer<std::byte>(stream, MiB);
  Gate gate(rig, stream);
  rig.heap.make_buffer<std::byte>(MiB).async_to_device(stream, target.span());
  errc_text_of(rig.heap.try_make_buffer<std::byte>(64), Errc::limit);
  CHECK(has(errc_text_of(rig.heap.try_make_buffer<std::byte>(64), Errc::limit), std::to_string(MiB) + " in flight"));
  gate.open();
  rig.settle(stream);
  CHECK(rig.heap.make_buffer<std::byte>(MiB).size() == MiB);
}

TEST_CASE("a heap's quota is its own: other heaps of the arena have the rest, and it does not make the arena grow") {
  const Rig rig(under_test(), {.bytes = 4 * MiB, .max_bytes = 64 * MiB}, {.max_bytes = MiB});
  const PinnedHeap other(rig.arena), second(rig.arena, {.max_bytes = MiB});
  const auto mine = fill(rig.heap, 4 * KiB, Errc::limit);
  const auto seconds = fill(second, 4 * KiB, Errc::limit);
  CHECK(rig.arena.stats().grown == 0);
  CHECK(other.make_buffer<std::byte>(2 * MiB).size() == 2 * MiB);
  CHECK(other.stats().max_bytes == 0);
  CHECK(second.stats().max_bytes == MiB);
  CHECK(mine.size() == seconds.size());
}

TEST_CASE("blocks that go from heap to heap count where they are") {
  // Little memory: what one heap lets go of the other takes from its caches and from the depot.
  const Rig rig = limited_to(3 * MiB, 4 * MiB);
  const PinnedHeap second(rig.arena, {.max_bytes = 3 * MiB}), third(rig.arena);
  for (int round = 0; round != 3; ++round)
    for (const std::size_t size : {std::size_t{64}, 512 * std::size_t{1}, 4 * KiB, 64 * KiB, 256 * KiB})
      for (const PinnedHeap* heap : {&rig.heap, &second, &third}) {
        std::vector<Bytes> buffers;
        for (std::size_t bytes = 0; bytes + size <= 3 * MiB; bytes += size) {
          auto made = heap->try_make_buffer<std::byte>(size);
          if (!made) break;
          buffers.push_back(std::move(*made));
        }
        // With others' memory in the way there may be less, but only memory is what is missing.
        CHECK(buffers.size() * size > 2 * MiB);
        const auto stats = heap->stats();
        CHECK(stats.taken <= stats.max_bytes);
        if (stats.max_bytes != 0) CHECK(stats.taken >= buffers.size() * size);
        std::thread([&] { buffers.clear(); }).join();
      }
  // Nothing has been forgotten, nor counted twice.
  rig.heap.collect();
  CHECK(third.make_buffer<std::byte>(4 * MiB - 64 * KiB).size() != 0);
  CHECK(rig.heap.stats().taken == 0);
  CHECK(second.stats().taken == 0);
}

TEST_CASE("what others take from a heap's threads is not the heap's any more") {
  const Rig rig = limited_to(MiB, MiB);
  const PinnedHeap other(rig.arena);
  std::vector<Bytes> buffers = fill(rig.heap, 32 * KiB, Errc::limit);
  REQUIRE(buffers.size() == 32);
  buffers.resize(24);  // of the rest, some are in this thread's cache
  CHECK(rig.heap.stats().taken > 24 * 32 * KiB);
  const auto more = fill(other, 32 * KiB, Errc::out_of_memory);
  CHECK(more.size() == 8);
  CHECK(rig.heap.stats().taken == 24 * 32 * KiB);
}

TEST_CASE("a buffer that is too large for any cache is given back, and its bytes with it") {
  const Rig rig = limited_to(4 * MiB);
  for (int i = 0; i != 10; ++i) CHECK(rig.heap.make_buffer<std::byte>(3 * MiB).size() == 3 * MiB);
  CHECK(rig.heap.stats().taken == 0);
}

TEST_CASE("what goes through the depot from thread to thread is counted out and in") {
  const Rig rig = limited_to(12 * MiB);
  const auto in_use = rig.heap.make_buffer<std::byte>(KiB);
  for (int round = 0; round != 10; ++round) {
    std::vector<Bytes> buffers;
    for (int i = 0; i != 1000; ++i) buffers.push_back(rig.heap.make_buffer<std::byte>(4 * KiB));
    std::thread([&] { buffers.clear(); }).join();  // whose cache goes to the depot
  }
  CHECK(rig.arena.stats().cached > 0);
  (void)PinnedArena(rig.arena).trim();  // gives all that is kept to the arena
  CHECK(rig.heap.stats().taken == KiB);
}

TEST_CASE("a thread keeps no larger share of a heap's quota than of an arena of that size") {
  const PinnedArena arena(stepped(), {.bytes = 512 * MiB});
  const PinnedHeap heap(arena, {.max_bytes = 4 * MiB});
  std::vector<Bytes> buffers;
  for (int i = 0; i != 60; ++i) buffers.push_back(heap.make_buffer<std::byte>(64 * KiB));
  buffers.clear();
  CHECK(heap.stats().taken <= MiB);
  CHECK(arena.stats().cached >= 3 * MiB);  // which other heaps may have
}

TEST_CASE("a heap that begins where another ended has all of its own quota") {
  const Rig rig = limited_to(MiB);
  for (std::size_t quota = MiB; quota <= 4 * MiB; quota += MiB) {
    const PinnedHeap heap(rig.arena, {.max_bytes = quota});
    CHECK(fill(heap, 64 * KiB, Errc::limit).size() == quota / (64 * KiB));
  }
}

TEST_CASE("threads at a heap's quota are never refused what it has room for, and never get more") {
  constexpr std::size_t threads = 4, size = 16 * KiB, each = 8;
  const Rig rig = limited_to(threads * each * size);
  std::atomic<std::size_t> refused{0}, most{0};
  std::vector<std::thread> all;
  for (std::size_t t = 0; t != threads; ++t)
    all.emplace_back([&] {
      for (int round = 0; round != 200; ++round) {
        std::vector<Bytes> buffers;
        for (std::size_t i = 0; i != each; ++i) {
          auto made = rig.heap.try_make_buffer<std::byte>(size);
          if (made)
            buffers.push_back(std::move(*made));
          else
            ++refused;
        }
        const std::size_t taken = rig.heap.stats().taken;
        std::size_t before = most;
        while (before < taken && !most.compare_exchange_weak(before, taken)) {
        }
      }
    });
  for (std::thread& thread : all) thread.join();
  CHECK(refused == 0);
  CHECK(most <= threads * each * size);
}
