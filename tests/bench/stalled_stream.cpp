// One stream that stands still, and fifteen that work.

#include <fmt/core.h>

#include <thole/thole.hpp>

#include "figures.hpp"
#include "gpu.hpp"

namespace bench {

using namespace std::chrono_literals;

namespace {

constexpr std::size_t buffer_bytes = 64 * KiB, copy_bytes = 4 * KiB, held = 64;
constexpr int workers = 15;

struct Seen {
  double nanoseconds = 0;  // an operation
  std::size_t most = 0;    // bytes in use and in flight
};

// The workers, with somebody who looks every few milliseconds at what is in use.
Seen work(const thole::Device& device, const thole::PinnedHeap& heap) {
  Seen seen;
  std::atomic<bool> stop{false};
  std::thread watcher([&] {
    while (!stop.load(std::memory_order_relaxed)) {
      const auto stats = heap.stats();
      seen.most = std::max(seen.most, stats.in_use + stats.in_flight);
      std::this_thread::sleep_for(5ms);
    }
  });
  seen.nanoseconds = per_operation(workers, 700ms, [&](int) -> std::function<void()> {
    auto stream = std::make_shared<thole::Stream>(device);
    auto target = std::make_shared<thole::DeviceBuffer<std::byte>>(*stream, copy_bytes);
    stream->synchronize();
    return [&heap, stream, target] {
      auto made = heap.try_make_buffer_for<std::byte>(buffer_bytes, 2s);
      if (!made) throw made.error();
      made->async_to_device(*stream, target->span(), 0, copy_bytes);
    };
  });
  stop.store(true, std::memory_order_relaxed);
  watcher.join();
  return seen;
}

}  // namespace

void stalled_stream(Figures& figures, const thole::Device& device, const thole::PinnedHeap& heap) {
  const char* const what = "15 streams' speed while another stands still";
  if (!can_stall(device)) return figures.skip(what, "no nvcc for its kernel");
  const thole::Stream stalled(device);
  thole::DeviceBuffer<std::byte> target(stalled, copy_bytes);
  stalled.synchronize();
  work(device, heap);  // warms up
  std::vector<double> free_speeds, stalled_speeds, ratios, growths;
  for (int round = 0; round < rounds; ++round) {
    heap.drain();
    const Seen before = work(device, heap);
    heap.drain();
    std::vector<thole::PinnedBuffer<std::byte>> behind;
    for (std::size_t i = 0; i < held; ++i) behind.push_back(heap.make_buffer<std::byte>(buffer_bytes));
    stall(stalled);
    for (auto& buffer : behind) buffer.async_to_device(stalled, target.span(), 0, copy_bytes);
    const Seen during = work(device, heap);
    const bool stood = behind.back().busy();
    behind.clear();
    end_stall(stalled);
    if (!stood) throw std::runtime_error("the stream went on though nobody let it");
    free_speeds.push_back(before.nanoseconds);
    stalled_speeds.push_back(during.nanoseconds);
    ratios.push_back(before.nanoseconds / during.nanoseconds);
    growths.push_back(static_cast<double>(during.most) / static_cast<double>(before.most + held * buffer_bytes));
  }
  heap.drain();
  figures.at_least(what, median(ratios), 0.90, "x",
                   fmt::format("{:.2f} us an operation; without it {:.2f} us", median(stalled_speeds) / 1e3,
                               median(free_speeds) / 1e3));
  figures.at_most("pinned bytes in use meanwhile", median(growths), 1.25, "x", "the most without it and what it holds");
}

}  // namespace bench
