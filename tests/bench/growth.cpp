// What must not grow with what is unfinished, or with what has ended: thole's
// own bookkeeping, measured on stepped simulated devices, which do nothing by
// themselves.

#include <fmt/core.h>

#include <thole/thole.hpp>

#include "figures.hpp"
#include "gpu.hpp"

namespace bench {

namespace {

constexpr std::size_t block = 64;

thole::Device stepped() { return thole::Device::simulated({.stepped = true}); }

/// Nanoseconds that a new stream takes beside so many in each of which a copy
/// is to be done.
double stream_beside(std::size_t unfinished) {
  const auto device = stepped();
  const thole::PinnedHeap heap(thole::PinnedArena(device, {.bytes = 8 * MiB}));
  std::vector<thole::Stream> streams;
  std::vector<thole::DeviceBuffer<std::byte>> targets;
  for (std::size_t i = 0; i < unfinished; ++i) {
    streams.emplace_back(device);
    targets.push_back(heap.make_buffer<std::byte>(block).async_to_device(streams.back()));
  }
  constexpr std::size_t count = 2000;
  streams.reserve(unfinished + count);
  const double began = nanoseconds();
  for (std::size_t i = 0; i < count; ++i) streams.emplace_back(device);
  const double took = (nanoseconds() - began) / count;
  device.simulation().lose_device();  // all of it goes at once: to run it would take a stepped device long
  return took;
}

/// Nanoseconds a block that collect() takes for so many, dropped behind a
/// stream that stood still.
double collect_of(std::size_t blocks) {
  const auto device = stepped();
  const thole::PinnedHeap heap(thole::PinnedArena(device, {.bytes = 16 * MiB}));
  const thole::Stream stream(device);
  thole::DeviceBuffer<std::byte> target(stream, block);
  for (std::size_t i = 0; i < blocks; ++i) heap.make_buffer<std::byte>(block).async_to_device(stream, target.span());
  (void)stream.native();  // an event behind all
  device.simulation().run_all();
  const double began = nanoseconds();
  const std::size_t found = heap.collect();
  const double took = nanoseconds() - began;
  if (found != blocks) throw std::runtime_error(fmt::format("collect() found {} of {} blocks", found, blocks));
  return took / static_cast<double>(blocks);
}

/// Nanoseconds a round, early and late, of a buffer that a new stream copies in each: the best of some short stretches,
/// since others use the machine, too.
Pair ever_new_streams() {
  const auto device = stepped();
  const thole::PinnedHeap heap(thole::PinnedArena(device, {.bytes = MiB}));
  const auto buffer = heap.make_buffer<std::byte>(block);
  const auto rounds_of = [&](int count) {
    const double began = nanoseconds();
    for (int i = 0; i < count; ++i) {
      const thole::Stream stream(device);
      (void)buffer.async_to_device(stream);
      device.simulation().run_all();
    }
    return (nanoseconds() - began) / count;
  };
  const auto best = [&] {
    double least = rounds_of(150);
    for (int i = 1; i < 10; ++i) least = std::min(least, rounds_of(150));
    return least;
  };
  (void)rounds_of(500);
  const double early = best();
  (void)rounds_of(12'500);
  return {early, best()};
}

}  // namespace

void growth(Figures& figures) {
  const auto [few, many] = by_turns([] { return stream_beside(100); }, [] { return stream_beside(20'000); });
  figures.at_most("a new stream beside 20,000 unfinished ones", many / few, 3, "x",
                  fmt::format("{:.2f} us; beside 100 {:.2f} us", many / 1e3, few / 1e3));
  // So many that most go back to the store both times: the first thousand stay in the thread's cache, which is cheaper.
  const auto [small, large] = by_turns([] { return collect_of(16'000); }, [] { return collect_of(64'000); });
  figures.at_most("collect() of 64,000 blocks, a block", large / small, 2, "x",
                  fmt::format("{:.0f} ns; of 16,000 {:.0f} ns, of 1,000 {:.0f} ns", large, small, collect_of(1000)));
  std::vector<double> early, late;
  for (int i = 0; i < 3; ++i) {
    const auto [first, last] = ever_new_streams();
    early.push_back(first);
    late.push_back(last);
  }
  figures.at_most("a buffer's use by the 16,000th new stream", median(late) / median(early), 2, "x",
                  fmt::format("{:.2f} us a round; the first ones {:.2f} us", median(late) / 1e3, median(early) / 1e3));
}

}  // namespace bench
