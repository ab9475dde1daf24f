// A forked child: heaps of its own work, and what it has inherited it may drop. Its exit status tells what went wrong.

#include <thole/thole.hpp>

#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "support/sanitized.hpp"

using namespace thole;

namespace {

constexpr std::size_t KiB = 1024;
constexpr std::size_t MiB = 1024 * KiB;

using Bytes = PinnedBuffer<std::byte>;

/// A device whose progress the test decides, and what a program has on it.
struct World {
  Device device = Device::simulated({.stepped = true});
  PinnedArena arena{device, {.bytes = 4 * MiB}};
  std::vector<PinnedHeap> heaps{PinnedHeap(arena), PinnedHeap(arena), PinnedHeap(arena)};
  Stream stream{device};
  DeviceBuffer<std::byte> target{stream, KiB};

  /// Makes and drops, at once and in flight, so that the thread has a cache of each heap. False: figures are wrong.
  bool use() {
    bool right = true;
    for (const PinnedHeap& heap : heaps) {
      const auto before = heap.stats();
      for (int i = 0; i != 100; ++i) (void)heap.make_buffer<std::byte>(KiB);
      heap.make_buffer<std::byte>(KiB).async_to_device(stream, target.span());
      right = heap.stats().in_flight == KiB && right;
      (void)stream.native();  // an event behind everything
      device.simulation().run_all();
      heap.drain();
      const auto after = heap.stats();
      right = after.in_use == 0 && after.in_flight == 0 && after.buffers_made - before.buffers_made == 101 &&
              after.recycled - before.recycled == 1 && right;
    }
    const auto cached = arena.stats().cached;
    return right && cached >= 3 * KiB && cached <= arena.capacity();
  }
};

/// The exit status of a child that runs `f`, which returns whether all is well, and then ends as a program does.
template <class F>
int status_of_child(F&& f) {
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    bool well = false;
    try {
      well = f();
    } catch (const std::exception& error) {
      std::fprintf(stderr, "the child: %s\n", error.what());
    }
    std::exit(well ? 0 : 1);
  }
  int status = -1;
  if (child < 0 || waitpid(child, &status, 0) != child) return -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + status;
}

template <class F>
bool lost(F&& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.errc() == Errc::device_lost;
  }
  return false;
}

}  // namespace

// A sanitizer's own threads and locks do not live through a fork.
TEST_CASE("a forked child uses heaps of its own, on every thread, whatever its parent had" *
          doctest::skip(THOLE_TEST_SANITIZED)) {
  World parents;
  REQUIRE(parents.use());
  CHECK(status_of_child([] {
          World own;
          bool right = own.use() && own.use();
          std::thread([&] { right = own.use() && right; }).join();
          return right;
        }) == 0);
  CHECK(parents.use());
}

TEST_CASE("what a forked child has inherited it may drop, and every other call on it is device_lost" *
          doctest::skip(THOLE_TEST_SANITIZED)) {
  std::optional<World> parents(std::in_place);
  REQUIRE(parents->use());
  std::vector<Bytes> buffers;
  for (const auto& heap : parents->heaps) {
    buffers.push_back(heap.make_buffer<std::byte>(KiB));
    buffers.push_back(heap.make_buffer<std::byte>(KiB));
    buffers.back().async_to_device(parents->stream, parents->target.span());
  }
  CHECK(status_of_child([&] {
          World own;
          bool right = own.use();
          const PinnedHeap& heap = parents->heaps.front();
          right = right && lost([&] { (void)heap.make_buffer<std::byte>(KiB); }) && lost([&] { heap.drain(); }) &&
                  lost([&] { (void)heap.report(); }) && lost([&] { (void)parents->arena.stats(); }) &&
                  lost([&] { (void)parents->arena.trim(); }) && lost([&] { (void)PinnedHeap(parents->arena); }) &&
                  heap.collect() == 0;
          buffers.clear();
          parents->heaps.clear();
          return own.use() && right;
        }) == 0);
  (void)parents->stream.native();
  parents->device.simulation().run_all();
  buffers.clear();
  for (const auto& heap : parents->heaps) heap.drain();
  CHECK(parents->use());
}

TEST_CASE("a child that is forked beside busy threads drops what it has inherited and exits" *
          doctest::skip(THOLE_TEST_SANITIZED)) {
  const auto device = Device::simulated();
  std::optional<PinnedArena> arena(std::in_place, device, ArenaOptions{.bytes = 4 * MiB});
  std::optional<PinnedArena> without_heap(std::in_place, device, ArenaOptions{.bytes = MiB});
  std::optional<PinnedHeap> heap(std::in_place, *arena);
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int i = 0; i != 2; ++i)
    threads.emplace_back([&] {
      while (!stop) {
        std::vector<Bytes> buffers;
        while (auto made = heap->try_make_buffer<std::byte>(64 * KiB)) buffers.push_back(std::move(*made));
        (void)arena->stats();  // takes the lock of every cache, and the store's
        for (int j = 0; j != 100; ++j) (void)without_heap->stats();
      }
    });
  for (int i = 0; i != 50; ++i) {
    auto made = heap->try_make_buffer<std::byte>(KiB);
    CHECK(status_of_child([&] {
            if (made) (void)Bytes(std::move(*made));
            heap.reset();
            arena.reset();
            without_heap.reset();
            return true;
          }) == 0);
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
}
