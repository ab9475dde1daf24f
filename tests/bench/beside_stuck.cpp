// What others pay beside a stream that stands still: while arenas come and go, and while its queue is full.

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

/// A stream with memory at its end, and nothing of thole's on it so far.
struct Place {
  explicit Place(const thole::Device& device) : stream(device), target(stream, copy_bytes) {}
  thole::Stream stream;
  thole::DeviceBuffer<std::byte> target;
};

/// The place stays the caller's: CUDA destroys no stream while another one's queue is full.
Seen round_trips(Place&& place, const thole::PinnedHeap& heap) {
  auto& [stream, target] = place;
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

/// While `f` runs, another thread makes an arena with a buffer in it, and drops both, again and again. It may be held
/// up by `stuck`, which is let go of once `f` is done.
template <class F>
Seen beside_arenas(const thole::Device& device, const thole::Stream& stuck, F f) {
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
  let_go(stuck);
  other.join();
  return seen;
}

}  // namespace

void coming_arenas(Figures& figures, const thole::Device& device, const thole::PinnedHeap& heap) {
  const char* const what = "others' round trip (p99) while arenas come and go beside a stuck stream";
  if (!can_stall(device)) return figures.skip(what, "no nvcc for its kernel");
  const auto alone = [&] { return round_trips(Place(device), heap); };
  const thole::Stream stuck(device);
  alone();
  std::vector<double> ratios, before, during, worst_before, worst_during;
  for (int round = 0; round != 3; ++round) {
    stall(stuck);
    const Seen without = alone();
    end_stall(stuck);
    stall(stuck);
    const Seen with = beside_arenas(device, stuck, alone);
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

void full_queue(Figures& figures, const thole::Device& device, const thole::PinnedHeap& heap) {
  const char* const what = "a stream's first round trips (p99) while another's queue is full";
  if (!can_stall(device)) return figures.skip(what, "no nvcc for its kernel");
  constexpr int more_than_fit = 1100;
  Place stuck(device);
  round_trips(Place(device), heap);
  std::vector<double> ratios, before, during, worst;
  for (int round = 0; round != 3; ++round) {
    Place first(device), second(device);
    const Seen without = round_trips(std::move(first), heap);
    stall(stuck.stream);
    std::atomic<int> enqueued{0};
    std::thread full([&] {
      for (int i = 0; i != more_than_fit; ++i) {
        heap.make_buffer<std::byte>(copy_bytes).async_to_device(stuck.stream, stuck.target.span());
        enqueued.fetch_add(1, std::memory_order_relaxed);
      }
    });
    for (int last = -1; enqueued.load() != last || last < 500; std::this_thread::sleep_for(5ms)) last = enqueued.load();
    const bool blocked = enqueued.load() < more_than_fit;
    const Seen with = round_trips(std::move(second), heap);
    let_go(stuck.stream);
    full.join();
    end_stall(stuck.stream);
    if (!blocked) return figures.skip(what, "the queue was never full");
    ratios.push_back(with.p99 / without.p99);
    before.push_back(without.p99);
    during.push_back(with.p99);
    worst.push_back(with.worst);
  }
  figures.at_most(what, median(ratios), 2, "x",
                  fmt::format("{:.1f} us, worst {:.1f}; with no full queue {:.1f} us", median(during), median(worst),
                              median(before)));
}

}  // namespace bench
