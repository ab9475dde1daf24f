// Arenas that come and go beside a stream that stands still: what it costs the others.

#include <fmt/core.h>

#include <thole/thole.hpp>

#include "figures.hpp"
#include "gpu.hpp"

namespace bench {

using namespace std::chrono_literals;

namespace {

constexpr std::size_t copy_bytes = 4 * KiB;

struct Seen {
  double p99 = 0, worst = 0;  // microseconds, of a copy there and the wait for it
};

Seen round_trips(const thole::Device& device, const thole::PinnedHeap& heap) {
  const thole::Stream stream(device);
  thole::DeviceBuffer<std::byte> target(stream, copy_bytes);
  auto buffer = heap.make_buffer<std::byte>(copy_bytes);
  std::vector<double> times;
  for (const double end = nanoseconds() + 250e6; nanoseconds() < end;) {
    const double began = nanoseconds();
    buffer.async_to_device(stream, target.span());
    buffer.wait();
    times.push_back((nanoseconds() - began) / 1e3);
  }
  std::ranges::sort(times);
  return {times[times.size() * 99 / 100], times.back()};
}

/// While `f` runs, another thread makes an arena with a buffer in it, and drops both, again and again.
template <class F>
Seen beside_arenas(const thole::Device& device, F f) {
  std::atomic<bool> stop{false};
  std::thread other([&] {
    while (!stop.load(std::memory_order_relaxed)) {
      const thole::PinnedArena arena(device, {.bytes = 8 * MiB});
      const auto buffer = thole::PinnedHeap(arena).make_buffer<std::byte>(64 * KiB);
      std::this_thread::sleep_for(1ms);
    }
  });
  const Seen seen = f();
  stop.store(true, std::memory_order_relaxed);
  other.join();
  return seen;
}

}  // namespace

void coming_arenas(Figures& figures, const thole::Device& device, const thole::PinnedHeap& heap) {
  const char* const what = "others' round trip (p99) while arenas come and go beside a stuck stream";
  if (!can_stall(device)) return figures.skip(what, "no nvcc for its kernel");
  const auto alone = [&] { return round_trips(device, heap); };
  const thole::Stream stuck(device);
  alone();
  std::vector<double> ratios, before, during, worst_before, worst_during;
  for (int round = 0; round != 3; ++round) {
    stall(stuck, 300);
    const Seen without = alone();
    end_stall(stuck);
    stall(stuck, 300);
    const Seen with = beside_arenas(device, alone);
    end_stall(stuck);
    ratios.push_back(with.p99 / without.p99);
    before.push_back(without.p99);
    during.push_back(with.p99);
    worst_before.push_back(without.worst);
    worst_during.push_back(with.worst);
  }
  figures.at_most(what, median(ratios), 2, "x",
                  fmt::format("{:.1f} us, worst {:.1f}; without arenas {:.1f} us, worst {:.1f}", median(during),
                              median(worst_during), median(before), median(worst_before)));
}

}  // namespace bench
