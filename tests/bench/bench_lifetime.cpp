// What letting go, copying and borrowing cost, beside bare CUDA.

#include <benchmark/benchmark.h>
#include <fmt/core.h>

#include <cstddef>
#include <cstdio>
#include <memory>
#include <optional>
#include <thole/thole.hpp>

#include "figures.hpp"
#include "gpu.hpp"
#ifdef THOLE_BENCH_HAS_CUDA
#include <cuda_runtime_api.h>
#endif

using namespace bench;
using namespace std::chrono_literals;

namespace {

constexpr std::size_t buffer_bytes = 64 * KiB, copy_bytes = 4 * KiB;

// ---- Dropping while a kernel runs

void drop_in_flight(Figures& figures, const thole::Device& device, const thole::PinnedHeap& heap) {
  const char* const what = "drop of a buffer in flight while a 100 ms kernel runs";
  if (!can_stall(device)) return figures.skip(what, "no nvcc for its kernel");
  constexpr std::size_t count = 256;
  const thole::Stream stream(device);
  thole::DeviceBuffer<std::byte> target(stream, copy_bytes);
  stream.synchronize();
  std::vector<double> drops, slowest, peers;
  for (int round = 0; round <= rounds; ++round) {  // the first one warms up
#ifdef THOLE_BENCH_HAS_CUDA
    void* bare = nullptr;
    const bool with_peer =
        device.backend() == thole::Backend::cuda && cudaHostAlloc(&bare, buffer_bytes, 0) == cudaSuccess;
#endif
    std::vector<thole::PinnedBuffer<std::byte>> buffers;
    for (std::size_t i = 0; i < count; ++i) buffers.push_back(heap.make_buffer<std::byte>(buffer_bytes));
    stall_for(stream, 100);
    for (auto& buffer : buffers) buffer.async_to_device(stream, target.span(), 0, copy_bytes);
    double worst = 0;
    const double began = nanoseconds();
    double last = began;
    while (!buffers.empty()) {
      buffers.pop_back();
      const double now = nanoseconds();
      worst = std::max(worst, now - last);
      last = now;
    }
    const double took = (last - began) / count;
    const bool still_busy = heap.stats().in_flight >= count * buffer_bytes;
#ifdef THOLE_BENCH_HAS_CUDA
    const double freeing = nanoseconds();
    if (with_peer && cudaFreeHost(bare) == cudaSuccess && round > 0) peers.push_back(nanoseconds() - freeing);
#endif
    end_stall(stream);
    heap.drain();
    if (!still_busy) return figures.skip(what, "the stream was done before the drops");
    if (round == 0) continue;
    drops.push_back(took);
    slowest.push_back(worst);
  }
  figures.at_most(what, median(drops), 1000, "ns",
                  fmt::format("slowest of {} {:.0f} ns; cudaFreeHost {}", count, median(slowest),
                              peers.empty() ? "not here" : fmt::format("{:.1f} ms", median(peers) / 1e6)));
}

// ---- Make, copy, drop

double own_copies(const thole::Device& device, const thole::PinnedHeap& heap, int threads) {
  const double result = per_operation(threads, 200ms, [&](int) -> std::function<void()> {
    auto stream = std::make_shared<thole::Stream>(device);
    auto target = std::make_shared<thole::DeviceBuffer<std::byte>>(*stream, copy_bytes);
    stream->synchronize();
    return [&heap, stream, target] {
      auto made = heap.try_make_buffer_for<std::byte>(buffer_bytes, 2s);
      if (!made) throw made.error();
      made->async_to_device(*stream, target->span(), 0, copy_bytes);
    };
  });
  heap.drain();
  return result;
}

#ifdef THOLE_BENCH_HAS_CUDA
void check(cudaError_t result) {
  if (result != cudaSuccess) throw std::runtime_error(cudaGetErrorString(result));
}

double bare_copies(int ordinal, int threads) {
  void* source = nullptr;
  check(cudaHostAlloc(&source, buffer_bytes, 0));
  const double result = per_operation(threads, 200ms, [&](int) -> std::function<void()> {
    struct Place {
      explicit Place(int device) {
        check(cudaSetDevice(device));
        check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
        check(cudaMalloc(&target, copy_bytes));
      }
      ~Place() {
        cudaStreamSynchronize(stream);
        cudaFree(target);
        cudaStreamDestroy(stream);
      }
      cudaStream_t stream = nullptr;
      void* target = nullptr;
    };
    auto place = std::make_shared<Place>(ordinal);
    return [place, source] {
      check(cudaMemcpyAsync(place->target, source, copy_bytes, cudaMemcpyHostToDevice, place->stream));
    };
  });
  check(cudaFreeHost(source));
  return result;
}
#endif

void make_copy_drop(Figures& figures, const thole::Device& device, const thole::PinnedHeap& heap) {
  for (const int threads : {1, 16}) {
    const auto what =
        fmt::format("make 64 KiB + copy 4 KiB to the device + drop, {} thread{}", threads, threads > 1 ? "s" : "");
    own_copies(device, heap, threads);  // warms up
#ifdef THOLE_BENCH_HAS_CUDA
    if (device.backend() == thole::Backend::cuda) {
      const auto [peer, ours] = by_turns([&] { return bare_copies(device.ordinal(), threads); },
                                         [&] { return own_copies(device, heap, threads); });
      figures.at_most(what, ours / peer, 1.25, "x",
                      fmt::format("{:.2f} us; bare cudaMemcpyAsync {:.2f} us", ours / 1e3, peer / 1e3));
      continue;
    }
#endif
    std::vector<double> ours;
    for (int i = 0; i < rounds; ++i) ours.push_back(own_copies(device, heap, threads));
    figures.note(what, median(ours) / 1e3, "us", "simulated device: no peer");
  }
}

// ---- Borrowing

void borrow(Figures& figures, const thole::Device& device, const thole::PinnedHeap& heap) {
  auto fresh = heap.make_buffer<std::byte>(buffer_bytes);
  auto copied = heap.make_buffer<std::byte>(buffer_bytes);
  const thole::Stream stream(device);
  thole::DeviceBuffer<std::byte> target(stream, copy_bytes);
  copied.async_to_device(stream, target.span(), 0, copy_bytes);
  stream.synchronize();
  copied.wait();
  const auto add = [](const char* name, auto& buffer, auto view) {
    benchmark::RegisterBenchmark(name,
                                 [&buffer, view](benchmark::State& state) {
                                   for (auto _ : state) {
                                     auto borrowed = view(buffer);
                                     benchmark::DoNotOptimize(borrowed.begin());
                                   }
                                 })
        ->Repetitions(rounds)
        ->ReportAggregatesOnly()
        ->MinTime(0.05);
  };
  const auto read = [](auto& buffer) { return buffer.borrow(); };
  const auto write = [](auto& buffer) { return buffer.borrow_mut(); };
  add("borrow", fresh, read);
  add("borrow_mut", fresh, write);
  add("borrow_after_a_copy", copied, read);
  add("borrow_mut_after_a_copy", copied, write);
  for (const auto& [name, time] : figures.run_registered())
    figures.at_most(name + "() and its end, nothing in flight", time, 10, "ns", "-");
}

}  // namespace

int main(int argc, char** argv) try {
  Figures figures(argc, argv, "lifetime");
  const auto device = thole::Device::best();
  fmt::print("device: {}, {} threads of the CPU\n", device.name(), std::thread::hardware_concurrency());
  const bool gpu = device.backend() == thole::Backend::cuda;
  figures.measure("forks", [&] { forks(figures, device); });  // before there is any other arena
  const thole::PinnedArena arena(device, {.bytes = gpu ? 2 * GiB : 512 * MiB});
  const thole::PinnedHeap heap(arena);
  figures.measure("borrow", [&] { borrow(figures, device, heap); });
  figures.measure("drop in flight", [&] { drop_in_flight(figures, device, heap); });
  figures.measure("make, copy, drop", [&] { make_copy_drop(figures, device, heap); });
  figures.measure("stalled stream", [&] { stalled_stream(figures, device, heap); });
  figures.measure("coming arenas", [&] { coming_arenas(figures, device, heap); });
  figures.measure("full queue", [&] { full_queue(figures, device, heap); });
  figures.measure("pinned in the background", [&] { pinned_in_background(figures, device, heap); });
  figures.measure("growth", [&] { growth(figures); });
  return figures.finish();
} catch (const std::exception& error) {
  std::fprintf(stderr, "bench_lifetime: %s\n", error.what());
  return 1;
}
