// Memory as real programs use it: made here and dropped there, beside threads, heaps and buffers that are many or gone.

#include <benchmark/benchmark.h>
#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <barrier>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <thole/thole.hpp>
#include <thread>
#include <vector>

#include "figures.hpp"
#include "raw_mimalloc.hpp"

using namespace bench;

namespace {

using Buffer = thole::PinnedBuffer<std::byte>;

// ---- Producer and consumer

/// A ring for one thread that puts and one that takes.
template <class T>
class Ring {
 public:
  void put(T value) {
    const std::size_t at = put_.load(std::memory_order_relaxed);
    while (at - taken_.load(std::memory_order_acquire) == slots_.size()) std::this_thread::yield();
    slots_[at % slots_.size()] = std::move(value);
    put_.store(at + 1, std::memory_order_release);
  }
  T take() {
    const std::size_t at = taken_.load(std::memory_order_relaxed);
    while (put_.load(std::memory_order_acquire) == at) std::this_thread::yield();
    T value = std::move(slots_[at % slots_.size()]);
    taken_.store(at + 1, std::memory_order_release);
    return value;
  }

 private:
  std::array<T, 256> slots_{};
  alignas(64) std::atomic<std::size_t> put_{0};
  alignas(64) std::atomic<std::size_t> taken_{0};
};

/// Nanoseconds a piece, with so many pairs of threads at once.
template <class Make, class Drop>
double through_rings(int pairs, std::size_t count, Make make, Drop drop) {
  using T = decltype(make());
  std::vector<std::unique_ptr<Ring<T>>> rings;
  for (int i = 0; i != pairs; ++i) rings.push_back(std::make_unique<Ring<T>>());
  std::barrier begin(2 * pairs + 1);  // what it takes to start threads is not asked
  std::vector<std::thread> threads;
  for (auto& ring : rings) {
    threads.emplace_back([&, count] {
      begin.arrive_and_wait();
      for (std::size_t i = 0; i != count; ++i) ring->put(make());
    });
    threads.emplace_back([&, count] {
      begin.arrive_and_wait();
      for (std::size_t i = 0; i != count; ++i) drop(ring->take());
    });
  }
  begin.arrive_and_wait();
  const double began = nanoseconds();
  for (std::thread& thread : threads) thread.join();
  return (nanoseconds() - began) / static_cast<double>(count);
}

void producer_consumer(Figures& figures, const thole::PinnedHeap& heap) {
  for (const std::size_t bytes : {std::size_t{64}, 4 * KiB, 64 * KiB, MiB}) {
    const std::size_t count = bytes == MiB ? 3000 : 20000;
    const auto name = bytes < KiB ? "64 B" : bytes < MiB ? fmt::format("{} KiB", bytes / KiB) : "1 MiB";
    double alone = 0;
    for (const int pairs : {1, 4, 8}) {
      const auto ours = [&] {
        return through_rings(
            pairs, count, [&] { return std::optional(heap.make_buffer<std::byte>(bytes)); }, [](auto&&) {});
      };
      const auto peer = [&] {
        return through_rings(
            pairs, count, [bytes] { return std::malloc(bytes); }, [](void* data) { std::free(data); });
      };
      ours();  // warms up
      const auto [theirs, mine] = by_turns(peer, ours);
      figures.at_most(fmt::format("made here, dropped there, {}, {} pairs, against malloc", name, pairs), mine / theirs,
                      1.5, "x", fmt::format("{:.0f} ns; malloc + free {:.0f} ns", mine, theirs));
      if (pairs == 1) alone = mine;
    }
    // Where there are processors for all: else pairs take turns.
    const int cores = static_cast<int>(std::thread::hardware_concurrency());
    const double many = through_rings(
        8, count, [&] { return std::optional(heap.make_buffer<std::byte>(bytes)); }, [](auto&&) {});
    const auto flat = fmt::format("made here, dropped there, {}, 8 pairs against 1", name);
    if (cores >= 16)
      figures.at_most(flat, many / alone, 1.5, "x", fmt::format("{:.0f} ns; {:.0f} ns", many, alone));
    else
      figures.note(flat, many / alone, "x", fmt::format("{} processors; target 1.5 with 16", cores));
  }
}

// ---- Beside much that is there, or was

/// The median of a few runs of `count` calls, nanoseconds each.
double each(std::size_t count, const std::function<void()>& call) {
  std::vector<double> times;
  for (int round = 0; round != rounds; ++round) {
    const double began = nanoseconds();
    for (std::size_t i = 0; i != count; ++i) call();
    times.push_back((nanoseconds() - began) / static_cast<double>(count));
  }
  return median(times);
}

struct Costs {
  double cached, stored, refused;
};

Costs costs(const thole::PinnedHeap& heap) {
  Costs costs{};
  costs.cached = each(20000, [&] { benchmark::DoNotOptimize(heap.make_buffer<std::byte>(4 * KiB)); });
  costs.stored = each(5000, [&] { benchmark::DoNotOptimize(heap.make_buffer<std::byte>(48 * MiB)); });
  const auto most = heap.make_buffer<std::byte>(160 * MiB);
  costs.refused = each(500, [&] { benchmark::DoNotOptimize(heap.try_make_buffer<std::byte>(300 * MiB)); });
  return costs;
}

void beside(Figures& figures, const std::string& what, const Costs& none, const Costs& many) {
  const auto row = [&](const char* call, double before, double after) {
    figures.at_most(fmt::format("{}: {}", what, call), after / before, 1.5, "x",
                    fmt::format("{:.0f} ns; without {:.0f} ns", after, before));
  };
  row("make + drop of 4 KiB", none.cached, many.cached);
  row("make + drop of 48 MiB, through the store", none.stored, many.stored);
  figures.at_most(fmt::format("{}: a try_make that fails", what), many.refused / 1e3, 10, "us",
                  fmt::format("without {:.1f} us", none.refused / 1e3));
}

void beside_many(Figures& figures, const thole::Device& device) {
  const thole::PinnedArena arena(device, {.bytes = 384 * MiB});
  const thole::PinnedHeap heap(arena);
  const Costs none = costs(heap);
  for (int i = 0; i != 1000; ++i) std::thread([&] { (void)heap.make_buffer<std::byte>(KiB); }).join();
  beside(figures, "after 1,000 ended threads", none, costs(heap));
  {
    std::vector<thole::PinnedHeap> heaps;
    for (int i = 0; i != 10000; ++i) {
      heaps.emplace_back(arena);
      (void)heaps.back().make_buffer<std::byte>(KiB);
    }
    beside(figures, "beside 10,000 heaps", none, costs(heap));
  }
  const thole::PinnedHeap other(arena);
  std::vector<Buffer> live;
  live.reserve(1000000);
  while (live.size() != 1000000) live.push_back(other.make_buffer<std::byte>(64));
  beside(figures, "beside a million live buffers", none, costs(heap));
  figures.at_most("drain() of an idle heap beside a million live buffers", each(100, [&] { heap.drain(); }) / 1e3, 10,
                  "us", "");
  figures.at_most("report() of it", each(100, [&] { (void)heap.report(); }) / 1e3, 10, "us", "");
}

// ---- The slowest

void slowest(Figures& figures, const thole::Device& device) {
  const thole::PinnedArena arena(device, {.bytes = 256 * MiB});
  const thole::PinnedHeap heap(arena);
  std::atomic<bool> stop{false};
  std::thread disturber([&] {
    thole::PinnedArena same = arena;
    while (!stop.load(std::memory_order_relaxed)) {
      (void)same.trim();
      (void)heap.try_make_buffer<std::byte>(250 * MiB);
    }
  });
  std::vector<double> times;
  times.reserve(200000);
  std::vector<Buffer> some;
  for (int i = 0; i != 200000; ++i) {
    const double began = nanoseconds();
    some.push_back(heap.make_buffer<std::byte>(i % 3 == 0 ? 64 : 4 * KiB));
    if (some.size() == 100) some.clear();
    times.push_back(nanoseconds() - began);
  }
  stop = true;
  disturber.join();
  std::sort(times.begin(), times.end());
  const auto at = [&](double share) {
    return times[static_cast<std::size_t>(share * static_cast<double>(times.size()))];
  };
  figures.at_most("p99.99 of a make beside flushes, trims and failing allocations", at(0.9999) / 1e3, 100, "us",
                  fmt::format("p50 {:.2f}, p99 {:.1f} us; each hundredth drops 100", at(0.5) / 1e3, at(0.99) / 1e3));
}

// ---- Fill

void fill(Figures& figures, const thole::Device& device) {
  // THOLE_BENCH_FILL=MIB: another arena, and every size from 512 B on; minutes in large ones.
  const char* const asked = std::getenv("THOLE_BENCH_FILL");
  const std::size_t also = asked != nullptr ? std::strtoul(asked, nullptr, 10) : 0;
  for (const std::size_t mib : {std::size_t{64}, std::size_t{256}, also}) {
    if (mib == 0) continue;
    const thole::PinnedArena arena(device, {.bytes = mib * MiB});
    double least = 1;
    std::size_t of = 0;
    const auto try_size = [&](std::size_t bytes) {
      const thole::PinnedHeap heap(arena);
      std::vector<Buffer> all;
      all.reserve(mib * MiB / bytes + 1);
      while (auto made = heap.try_make_buffer<std::byte>(bytes)) all.push_back(std::move(*made));
      const double share = static_cast<double>(all.size() * bytes) / static_cast<double>(mib * MiB);
      if (share < least) least = share, of = bytes;
    };
    const bool all = mib == also;
    if (mib == 64)
      for (std::size_t bytes = 128; bytes <= 512; bytes += 128) try_size(bytes);
    for (std::size_t power = mib != 256 ? 512 : 4 * KiB; power <= MiB; power *= all ? 2 : 4)
      for (std::size_t eighth = 8; eighth < 16; eighth += all ? 1 : 3)
        for (const std::size_t more : {std::size_t{0}, std::size_t{1}}) try_size(power / 8 * eighth + more);
    figures.at_least(fmt::format("one size until {} MiB are full, the worst of many sizes", mib), least, 0.88, "of it",
                     fmt::format("{} B", of));
  }
}

/// Sizes from 64 B to 32 KiB at random, so much of the arena alive: how many makes fail.
void churn(Figures& figures, const thole::Device& device) {
  const thole::PinnedArena arena(device, {.bytes = 256 * MiB});
  const thole::PinnedHeap heap(arena);
  std::mt19937 random(7);
  std::vector<Buffer> live;
  std::size_t bytes = 0, failed = 0;
  constexpr std::size_t makes = 120000;
  for (std::size_t i = 0; i != makes; ++i) {
    const double size = 64 * std::pow(512.0, static_cast<double>(random() % 65536) / 65536);
    const auto drop = [&] {
      std::swap(live[random() % live.size()], live.back());
      bytes -= live.back().size();
      live.pop_back();
    };
    while (bytes + static_cast<std::size_t>(size) > 256 * MiB / 10 * 9) drop();
    auto made = heap.try_make_buffer<std::byte>(static_cast<std::size_t>(size));
    if (!made) {
      ++failed;
      drop();
      continue;
    }
    bytes += made->size();
    live.push_back(std::move(*made));
  }
  figures.at_most("makes that fail of 120,000, 64 B to 32 KiB, 90 % of 256 MiB alive", static_cast<double>(failed), 0,
                  "", "");
}

// ---- From the cache

void beside_mimalloc(Figures& figures, const thole::PinnedHeap& heap) {
  const auto raw = RawMimalloc::make();
  for (const std::size_t bytes : {std::size_t{64}, KiB, 64 * KiB}) {
    const auto what = fmt::format("make + drop of {} B from the cache against mimalloc's own pair", bytes);
    if (raw == nullptr) {
      figures.skip(what, "mimalloc cannot be reached by itself here");
      continue;
    }
    const auto ours = [&] {
      return each(40000, [&] { benchmark::DoNotOptimize(heap.make_buffer<std::byte>(bytes)); });
    };
    const auto peer = [&] {
      return each(40000, [&] {
        void* data = raw->allocate(bytes);
        benchmark::DoNotOptimize(data);
        raw->free(data);
      });
    };
    ours();
    const auto [theirs, mine] = by_turns(peer, ours);
    figures.at_most(what, mine / theirs, bytes > KiB ? 1.1 : 2, "x", fmt::format("{:.1f} ns; {:.1f} ns", mine, theirs));
  }
  const auto one = each(40000, [&] { benchmark::DoNotOptimize(heap.make_buffer<std::byte>(MiB)); });
  std::size_t next = 0;
  const auto three =
      each(40000, [&] { benchmark::DoNotOptimize(heap.make_buffer<std::byte>(MiB + 64 * KiB * (next++ % 3))); });
  figures.at_most("three sizes of 1 MiB in turn against one", three / one, 1.3, "x",
                  fmt::format("{:.1f} ns; {:.1f} ns", three, one));
}

}  // namespace

int main(int argc, char** argv) try {
  Figures figures(argc, argv, "sharing");
  const auto device = thole::Device::best();
  fmt::print("device: {}, {} threads of the CPU\n", device.name(), std::thread::hardware_concurrency());
  {
    const thole::PinnedArena arena(device, {.bytes = 4 * GiB});
    const thole::PinnedHeap heap(arena);
    figures.measure("from the cache", [&] { beside_mimalloc(figures, heap); });
    figures.measure("producer and consumer", [&] { producer_consumer(figures, heap); });
  }
  figures.measure("beside many", [&] { beside_many(figures, device); });
  figures.measure("the slowest", [&] { slowest(figures, device); });
  figures.measure("fill", [&] { fill(figures, device); });
  figures.measure("churn", [&] { churn(figures, device); });
  return figures.finish();
} catch (const std::exception& error) {
  std::fprintf(stderr, "bench_sharing: %s\n", error.what());
  return 1;
}
