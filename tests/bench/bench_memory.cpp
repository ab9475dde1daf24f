// What making and dropping costs beside mimalloc itself, what pinning costs beside CUDA, and what is wasted.

#include <benchmark/benchmark.h>
#include <fmt/core.h>

#include <array>
#include <cstddef>
#include <cstdio>
#include <optional>
#include <vector>

#include <thole/thole.hpp>

#include "figures.hpp"
#include "raw_mimalloc.hpp"
#include "waste.hpp"
#ifdef THOLE_BENCH_HAS_CUDA
#include <cuda_runtime_api.h>
#endif

using namespace bench;
using namespace std::chrono_literals;

namespace {

using Buffer = thole::PinnedBuffer<std::byte>;

// ---- One thread, beside mimalloc

template <class F>
double each(std::size_t count, F&& operation) {
  const double began = nanoseconds();
  for (std::size_t i = 0; i < count; ++i) operation();
  return (nanoseconds() - began) / static_cast<double>(count);
}

void beside_mimalloc(Figures& figures, const thole::PinnedHeap& heap) {
  const char* const what = "make + drop of 64 KiB, 1 thread";
  constexpr std::size_t count = 200000;
  const auto pair = [&] { benchmark::DoNotOptimize(heap.make_buffer<std::byte>(64 * KiB).unsynchronized_data()); };
  each(count, pair);  // warms up
  const auto raw = RawMimalloc::make();
  if (raw == nullptr) return figures.note(what, each(count, pair), "ns", "mimalloc cannot be reached by itself here");
  const auto raw_pair = [&] {
    void* data = raw->allocate(64 * KiB);
    benchmark::DoNotOptimize(data);
    raw->free(data);
  };
  each(count, raw_pair);
  const auto [peer, ours] = by_turns([&] { return each(count, raw_pair); }, [&] { return each(count, pair); });
  figures.at_most(what, ours / peer, 1.8, "x",
                  fmt::format("{:.1f} ns; mi_heap_malloc_aligned + mi_free {:.1f} ns", ours, peer));
}

// ---- Threads

void threads(Figures& figures, const thole::PinnedHeap& heap) {
  const auto pairs = [&](int count) {
    return per_operation(count, 200ms,
                         [&](int) -> std::function<void()> {
                           return [&heap] {
                             // Many to a call, so that calling through std::function is no part of it.
                             for (int i = 0; i < 100; ++i)
                               benchmark::DoNotOptimize(heap.make_buffer<std::byte>(64 * KiB).unsynchronized_data());
                           };
                         }) /
           100;
  };
  const int most = std::min(16, static_cast<int>(std::max(2U, std::thread::hardware_concurrency())));
  pairs(most);
  const auto [one, many] = by_turns([&] { return pairs(1); }, [&] { return pairs(most); });
  figures.at_most(fmt::format("make + drop of 64 KiB, {} threads on one heap against 1", most), many / one, 1.5, "x",
                  fmt::format("{:.1f} ns each; 1 thread {:.1f} ns", many, one));
}

// One thread makes, another drops; a ring between them.
double across_threads(const thole::PinnedHeap& heap, std::size_t bytes, std::size_t count) {
  constexpr std::size_t slots = 256;
  std::array<std::optional<Buffer>, slots> ring;
  alignas(64) std::atomic<std::size_t> made{0};     // release: the buffer is in its slot
  alignas(64) std::atomic<std::size_t> dropped{0};  // release: the slot is empty
  std::barrier ready(2);
  std::thread consumer([&] {
    ready.arrive_and_wait();
    for (std::size_t i = 0; i < count; ++i) {
      while (made.load(std::memory_order_acquire) == i) std::this_thread::yield();
      ring[i % slots].reset();
      dropped.store(i + 1, std::memory_order_release);
    }
  });
  ready.arrive_and_wait();
  const double began = nanoseconds();
  for (std::size_t i = 0; i < count; ++i) {
    while (i - dropped.load(std::memory_order_acquire) == slots) std::this_thread::yield();
    auto buffer = heap.try_make_buffer<std::byte>(bytes);
    while (!buffer) {  // the other thread holds it all for the moment
      std::this_thread::yield();
      buffer = heap.try_make_buffer<std::byte>(bytes);
    }
    ring[i % slots].emplace(std::move(*buffer));
    made.store(i + 1, std::memory_order_release);
  }
  consumer.join();
  return (nanoseconds() - began) / static_cast<double>(count);
}

// ---- Arenas in turn

// What mimalloc has of one arena must serve the next, or small buffers end up with what is slower.
void arenas_in_turn(Figures& figures, const thole::Device& device) {
  constexpr std::size_t count = 200;
  const auto pair_in = [&device](std::size_t nth) {
    const thole::PinnedHeap heap(thole::PinnedArena(device, {.bytes = 256 * MiB + nth * 256 * KiB}));
    std::vector<Buffer> some(1000);  // more than a thread's cache holds
    const auto round = [&] {
      for (Buffer& buffer : some) buffer = heap.make_buffer<std::byte>(64);
      for (Buffer& buffer : some) buffer = {};
    };
    each(20, round);
    return each(200, round) / static_cast<double>(some.size());
  };
  std::vector<double> times;
  for (std::size_t nth = 0; nth != count; ++nth) times.push_back(pair_in(nth));
  const double first = median({times.begin(), times.begin() + rounds});
  const double last = median({times.end() - rounds, times.end()});
  figures.at_most("make + drop of 64 B in the last of 200 arenas, each larger than the one before, against the first",
                  last / first, 1.5, "x", fmt::format("{:.1f} ns; in the first {:.1f} ns", last, first));
  (void)thole::Device(device).trim_pinned();
}

// ---- Every size

void every_size(Figures& figures, const thole::PinnedHeap& heap) {
  for (std::size_t bytes = 64; bytes <= 64 * MiB; bytes *= 4)
    benchmark::RegisterBenchmark(fmt::format("make_and_drop/{}", bytes).c_str(),
                                 [&heap, bytes](benchmark::State& state) {
                                   for (auto _ : state)
                                     benchmark::DoNotOptimize(heap.make_buffer<std::byte>(bytes).unsynchronized_data());
                                 })
        ->Repetitions(rounds)
        ->ReportAggregatesOnly()
        ->MinTime(0.02);
  auto medians = figures.run_registered();
  for (std::size_t bytes = 64; bytes <= 64 * MiB; bytes *= 4) {
    const double time = medians[fmt::format("make_and_drop/{}", bytes)];
    const auto name = bytes < KiB   ? fmt::format("{} B", bytes)
                      : bytes < MiB ? fmt::format("{} KiB", bytes / KiB)
                                    : fmt::format("{} MiB", bytes / MiB);
    std::vector<double> across;
    for (int i = 0; i < rounds; ++i) across.push_back(across_threads(heap, bytes, 20000));
    const auto peer = fmt::format("dropped on another thread {:.0f} ns", median(across));
    if (bytes == 16 * MiB)
      figures.at_most("make + drop of " + name, time, 120, "ns", peer);
    else
      figures.note("make + drop of " + name, time, "ns", peer);
  }
}

// ---- Beside CUDA

void beside_cuda(Figures& figures, [[maybe_unused]] const thole::Device& device,
                 [[maybe_unused]] const thole::PinnedHeap& heap) {
  const char* const pin = "pin an arena of 1 GiB against cudaHostAlloc";
#ifdef THOLE_BENCH_HAS_CUDA
  if (device.backend() == thole::Backend::cuda) {
    cudaSetDevice(device.ordinal());
    double ours = 1e18, peer = 1e18, small = 0;
    for (int round = 0; round < 3; ++round) {
      (void)thole::Device(device).trim_pinned();
      double began = nanoseconds();
      void* data = nullptr;
      if (cudaHostAlloc(&data, GiB, 0) != cudaSuccess) return figures.skip(pin, "cudaHostAlloc failed");
      peer = std::min(peer, nanoseconds() - began);
      cudaFreeHost(data);
      began = nanoseconds();
      {
        const thole::PinnedArena arena(device, {.bytes = GiB});
        ours = std::min(ours, nanoseconds() - began);
      }
      (void)thole::Device(device).trim_pinned();  // or the next arena is given what this one leaves pinned
    }
    figures.at_most(pin, ours / peer, 0.15, "x",
                    fmt::format("{:.1f} ms; cudaHostAlloc {:.1f} ms", ours / 1e6, peer / 1e6));
    small = each(100, [] {
      void* data = nullptr;
      if (cudaHostAlloc(&data, 64 * KiB, 0) == cudaSuccess) cudaFreeHost(data);
    });
    figures.note("make + drop of 64 KiB again", each(100000, [&] { (void)heap.make_buffer<std::byte>(64 * KiB); }),
                 "ns", fmt::format("cudaHostAlloc + cudaFreeHost {:.0f} us", small / 1e3));
    return;
  }
#endif
  figures.skip(pin, "needs a GPU");
}

}  // namespace

int main(int argc, char** argv) try {
  Figures figures(argc, argv, "memory");
  const auto device = thole::Device::best();
  fmt::print("device: {}, {} threads of the CPU\n", device.name(), std::thread::hardware_concurrency());
  {
    const thole::PinnedArena arena(device, {.bytes = GiB});
    const thole::PinnedHeap heap(arena);
    figures.measure("make + drop beside mimalloc", [&] { beside_mimalloc(figures, heap); });
    figures.measure("threads", [&] { threads(figures, heap); });
    figures.measure("every size", [&] { every_size(figures, heap); });
    figures.measure("beside CUDA", [&] { beside_cuda(figures, device, heap); });
  }
  figures.measure("arenas in turn", [&] { arenas_in_turn(figures, device); });
  figures.measure("a mapped file", [&] { adopted_file(figures, device); });
  figures.measure("how much can be handed out", [&] { hand_out(figures, device); });
  figures.measure("traces", [&] { traces(figures, device); });
  return figures.finish();
} catch (const std::exception& error) {
  std::fprintf(stderr, "bench_memory: %s\n", error.what());
  return 1;
}
