// What work costs as programs have it: on streams of others, on several buffers, through the device and back, in
// graphs. Each row beside the bare calls of CUDA in the same run; on the simulated device the rows run without peers.

#include <benchmark/benchmark.h>
#include <fmt/core.h>

#include <cstddef>
#include <cstdio>
#include <memory>
#include <optional>
#include <thole/graph.hpp>
#include <thole/thole.hpp>

#include "bare.hpp"
#include "figures.hpp"

using namespace bench;
using namespace std::chrono_literals;

namespace {

constexpr std::size_t buffer_bytes = 64 * KiB, copy_bytes = 4 * KiB;
constexpr double as_bare = 1.25;  // of the bare calls' time

using Bytes = thole::PinnedBuffer<std::byte>;
using Memory = thole::DeviceBuffer<std::byte>;

bool on_gpu(const thole::Device& device) { return device.backend() == thole::Backend::cuda; }

/// A row that a GPU compares with `peer`, and the simulated device only runs.
void beside(Figures& figures, const std::string& what, const thole::Device& device, const std::string& peer_name,
            const std::function<double()>& peer, const std::function<double()>& ours, double parts = 1,
            const std::string& unit = "us") {
  const double scale = unit == "us" ? 1e3 : 1;
  (void)ours();  // warms up
  if (on_gpu(device) && has_bare) {
    const auto [bare, own] = by_turns(peer, ours);
    figures.at_most(
        what, own / bare, as_bare, "x",
        fmt::format("{:.2f} {}; {} {:.2f} {}", own / parts / scale, unit, peer_name, bare / parts / scale, unit));
    return;
  }
  std::vector<double> taken;
  for (int i = 0; i < rounds; ++i) taken.push_back(ours());
  figures.note(what, median(taken) / parts / scale, unit, "simulated device: no peer");
}

// ---- Make, copy, drop

/// Whose stream a thread has, and how it copies.
enum class By { own_stream, foreign_stream, use_on_own, use_on_foreign };

/// What one thread works with.
struct Place {
  Place(const thole::Device& device, By by) {
    if (on_gpu(device)) bare_use_device(device.ordinal());
    if (by == By::own_stream || by == By::use_on_own)
      own.emplace(device);
    else if (on_gpu(device))
      bare = std::make_unique<BareStream>(device.ordinal());
    // The simulated device's stream of others is that of the thread.
    stream.emplace(own ? thole::StreamRef(*own)
                       : thole::detail::unwrap(thole::detail::stream_from_native(
                             device, bare ? bare->native() : reinterpret_cast<void*>(2))));
    target.emplace(*stream, copy_bytes);
    stream->synchronize();
  }
  std::unique_ptr<BareStream> bare;
  std::optional<thole::Stream> own;
  std::optional<thole::StreamRef> stream;
  std::optional<Memory> target;
};

double make_copy_drop(const thole::Device& device, const thole::PinnedHeap& heap, By by, int threads) {
  const bool through_use_on = by == By::use_on_own || by == By::use_on_foreign;
  const double result = per_operation(threads, 200ms, [&](int) -> std::function<void()> {
    auto place = std::make_shared<Place>(device, by);
    return [&heap, place, through_use_on, gpu = on_gpu(device)] {
      auto made = heap.try_make_buffer_for<std::byte>(buffer_bytes, 2s);
      if (!made) throw made.error();
      if (!through_use_on) return made->async_to_device(*place->stream, place->target->span(), 0, copy_bytes);
      made->use_on(*place->stream, thole::Access::device_reads, [&](const std::byte* data, thole::NativeStream native) {
        if (gpu) bare_copy_to_device(place->target->span().native(), data, copy_bytes, native);
      });
    };
  });
  heap.drain();
  return result;
}

void make_copy_drop_rows(Figures& figures, const thole::Device& device, const thole::PinnedHeap& heap) {
  const struct {
    By by;
    const char* name;
    bool event;
  } rows[] = {{By::own_stream, "on a stream of thole's", false},
              {By::foreign_stream, "on a foreign stream", true},
              {By::use_on_own, "through use_on", true},
              {By::use_on_foreign, "through use_on, on a foreign stream", true}};
  for (const auto& row : rows)
    for (const int threads : {1, 16})
      beside(
          figures,
          fmt::format("make 64 KiB + copy 4 KiB + drop {}, {} thread{}", row.name, threads, threads > 1 ? "s" : ""),
          device, row.event ? "cudaMemcpyAsync + cudaEventRecord" : "cudaMemcpyAsync",
          [&] { return bare_copies(device.ordinal(), threads, buffer_bytes, copy_bytes, row.event); },
          [&] { return make_copy_drop(device, heap, row.by, threads); });
}

// ---- To the device and back

double round_trips(const thole::Device& device, const thole::PinnedHeap& heap, int threads) {
  const double result = per_operation(threads, 200ms, [&](int) -> std::function<void()> {
    auto stream = std::make_shared<thole::Stream>(device);
    auto source = std::make_shared<Bytes>(heap.make_buffer<std::byte>(copy_bytes, std::byte{1}));
    return [&heap, stream, source] {
      auto memory = source->async_to_device(*stream);
      auto back = memory.try_async_to_host_for(*stream, heap, 2s);
      if (!back) throw back.error();
    };
  });
  heap.drain();
  return result;
}

void round_trip_rows(Figures& figures, const thole::Device& device, const thole::PinnedHeap& heap) {
  for (const int threads : {1, 16})
    beside(
        figures,
        fmt::format("async_to_device + async_to_host + drops, 4 KiB, {} thread{}", threads, threads > 1 ? "s" : ""),
        device, "cudaMallocAsync, two copies, cudaFreeAsync",
        [&] { return bare_round_trips(device.ordinal(), threads, copy_bytes); },
        [&] { return round_trips(device, heap, threads); });
}

// ---- Several buffers

/// Nanoseconds that `call()` takes, the best of many: the stream is empty before each.
double each_call(const thole::StreamRef& stream, int times, const std::function<void()>& call) {
  double best = 0;
  for (int i = 0; i != times; ++i) {
    const double began = nanoseconds();
    call();
    const double took = nanoseconds() - began;
    best = i == 0 ? took : std::min(best, took);
    stream.synchronize();
  }
  return best;
}

void several(Figures& figures, const thole::Device& device, const thole::PinnedHeap& heap) {
  constexpr std::size_t many = 10'000;
  const auto nothing = [](auto...) {};
  const thole::Stream stream(device);
  std::vector<Bytes> buffers;
  for (std::size_t i = 0; i != many; ++i) buffers.push_back(heap.make_buffer<std::byte>(1 * KiB));
  thole::UseList pinned;
  for (auto& buffer : buffers) pinned.reads(buffer);
  const double per_pinned = each_call(stream, 30, [&] { pinned.run_on(stream, nothing); }) / many;
  figures.at_most("a UseList of 10,000 pinned buffers, each time it runs, a buffer", per_pinned, 50, "ns", "-");

  std::vector<Memory> pages;
  for (std::size_t i = 0; i != many; ++i) pages.emplace_back(stream, 256);
  thole::UseList device_pages;
  for (auto& page : pages) device_pages.reads(page);
  const double per_page = each_call(stream, 30, [&] { device_pages.run_on(stream, nothing); }) / many;
  figures.at_most("a UseList of 10,000 DeviceBuffers, each time it runs, a buffer", per_page, 50, "ns", "-");

  thole::UseList fresh;
  const double listing = each_call(stream, 30,
                                   [&] {
                                     fresh.clear();
                                     for (auto& buffer : buffers) fresh.reads(buffer);
                                   }) /
                         many;
  figures.note("listing 10,000 pinned buffers and letting go of them, a buffer", listing, "ns", "-");

  auto *a = &buffers[0], *b = &buffers[1], *c = &buffers[2], *d = &buffers[3];
  auto *e = &buffers[4], *f = &buffers[5], *g = &buffers[6], *h = &buffers[7];
  using thole::reads, thole::writes;
  const double one = each_call(stream, 2'000, [&] { thole::use_on(stream, reads(*a), nothing); });
  const double eight = each_call(stream, 2'000, [&] {
    thole::use_on(stream, reads(*a), reads(*b), reads(*c), reads(*d), reads(*e), reads(*f), writes(*g), writes(*h),
                  nothing);
  });
  figures.note("use_on of one buffer, without its work", one, "ns", "the event is in it");
  figures.at_most("use_on of eight buffers, for each more than one", (eight - one) / 7, 50, "ns",
                  fmt::format("{:.0f} ns in all", eight));
}

// ---- Graphs

void graphs(Figures& figures, const thole::Device& device, const thole::PinnedHeap& heap) {
  constexpr std::size_t blocks = 1'000;
  const thole::Stream stream(device);
  std::vector<Bytes> buffers;
  Memory memory(stream, copy_bytes);
  for (std::size_t i = 0; i != blocks; ++i) buffers.push_back(heap.make_buffer<std::byte>(copy_bytes));
  for (const auto completion : {thole::whole_launch, thole::each_write}) {
    auto exec = thole::capture(stream,
                               [&] {
                                 for (std::size_t i = 0; i != blocks; ++i)
                                   if (i % 2 == 0)
                                     buffers[i].async_to_device(stream, memory.span());
                                   else
                                     buffers[i].async_from_device(stream, memory.span());
                               },
                               {.completion = completion})
                    .instantiate();
    const std::string how = completion == thole::each_write ? ", an event behind each write" : "";
    beside(
        figures, "launch of a graph that copies 1,000 blocks" + how, device, "cudaGraphLaunch",
        [&] { return each_call(stream, 20, [&] { bare_launch(exec.native(), stream.native()); }); },
        [&] { return each_call(stream, 20, [&] { exec.launch(stream); }); });
    figures.note("what such a launch takes for a block" + how,
                 each_call(stream, 20, [&] { exec.launch(stream); }) / blocks, "ns", "with the bare launch in it");
  }
}

// ---- Borrowing

void borrows(Figures& figures, const thole::PinnedHeap& heap) {
  auto buffer = heap.make_buffer<std::byte>(buffer_bytes);
  std::atomic<std::uint32_t> word{0};
  const auto add = [](const char* name, std::function<void()> once) {
    benchmark::RegisterBenchmark(name,
                                 [once](benchmark::State& state) {
                                   for (auto _ : state) once();
                                 })
        ->Repetitions(rounds)
        ->ReportAggregatesOnly()
        ->MinTime(0.05);
  };
  // Taking a borrow and ending it are two changes of one word that others may change, too.
  add("two_atomic_changes", [&] {
    word.fetch_add(1, std::memory_order_acquire);
    word.fetch_sub(1, std::memory_order_release);
  });
  add("borrow", [&] { benchmark::DoNotOptimize(buffer.borrow().begin()); });
  add("borrow_mut", [&] { benchmark::DoNotOptimize(buffer.borrow_mut().begin()); });
  auto times = figures.run_registered();
  const double floor = times["two_atomic_changes"];
  figures.note("two atomic read-modify-writes", floor, "ns", "-");
  for (const char* const name : {"borrow", "borrow_mut"})
    figures.at_most(fmt::format("{}() and its end, beside two atomic read-modify-writes", name), times[name] / floor,
                    1.5, "x", fmt::format("{:.1f} ns; {:.1f} ns", times[name], floor));
}

}  // namespace

int main(int argc, char** argv) try {
  Figures figures(argc, argv, "uses");
  const auto device = thole::Device::best();
  fmt::print("device: {}, {} threads of the CPU\n", device.name(), std::thread::hardware_concurrency());
  const thole::PinnedArena arena(device, {.bytes = on_gpu(device) ? 2 * GiB : 512 * MiB});
  const thole::PinnedHeap heap(arena);
  figures.measure("borrows", [&] { borrows(figures, heap); });
  figures.measure("several buffers", [&] { several(figures, device, heap); });
  figures.measure("graphs", [&] { graphs(figures, device, heap); });
  figures.measure("make, copy, drop", [&] { make_copy_drop_rows(figures, device, heap); });
  figures.measure("round trips", [&] { round_trip_rows(figures, device, heap); });
  return figures.finish();
} catch (const std::exception& error) {
  std::fprintf(stderr, "bench_uses: %s\n", error.what());
  return 1;
}
