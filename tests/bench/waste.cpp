#include "waste.hpp"

#include <fmt/core.h>

#include <optional>
#include <utility>

#include "figures.hpp"
#include "traces.hpp"

namespace bench {

namespace {

using Buffer = thole::PinnedBuffer<std::byte>;

struct Size {
  std::size_t bytes;
  const char* name;
  double target;  // per cent of the arena
};

constexpr Size sizes[]{{64 * KiB, "64 KiB", 97}, {MiB, "1 MiB", 97},           {3 * MiB, "3 MiB", 97},
                       {16 * MiB, "16 MiB", 97}, {100 * MiB, "100 MiB", 87.8}, {992 * MiB, "992 MiB", 96.8}};
constexpr std::size_t orders[2][6]{{0, 1, 2, 3, 4, 5}, {3, 0, 5, 2, 4, 1}};

std::size_t fill(const thole::PinnedHeap& heap, std::size_t bytes) {
  std::vector<Buffer> buffers;
  while (auto made = heap.try_make_buffer<std::byte>(bytes)) buffers.push_back(std::move(*made));
  return buffers.size();
}

// The first step that does not fit into an arena of so many bytes, or the number of steps.
std::size_t run(const thole::Device& device, const Trace& trace, std::size_t bytes) {
  const thole::PinnedHeap heap(thole::PinnedArena(device, {.bytes = bytes}));
  std::vector<std::optional<Buffer>> buffers(trace.sizes.size());
  for (std::size_t done = 0; done < trace.steps.size(); ++done) {
    const Step& step = trace.steps[done];
    if (step.bytes == 0) {
      buffers[step.id].reset();
    } else {
      auto made = heap.try_make_buffer<std::byte>(step.bytes);
      if (!made) return done;
      buffers[step.id].emplace(std::move(*made));
    }
  }
  return trace.steps.size();
}

void least_arena(Figures& figures, const thole::Device& device, const char* name, const Trace& trace) {
  // In steps of one per cent: where the least arena lies that serves the whole trace.
  int low = 99, high = 150;  // it fails in the one; it runs in the other, or is said to need that much
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    const std::size_t bytes = trace.peak / 100 * static_cast<std::size_t>(middle);
    (run(device, trace, bytes) == trace.steps.size() ? high : low) = middle;
  }
  figures.at_most(fmt::format("arena that a {}'s trace needs, over its peak of bytes alive", name), high / 100.0, 1.15,
                  "x",
                  fmt::format("{:.0f} MiB alive; power-of-two sizes {:.2f} x", static_cast<double>(trace.peak) / MiB,
                              trace.rounded_peak()));
}

// Bytes taken over bytes alive, each at its peak within the quarter.
void creeping(Figures& figures, const thole::Device& device, const Trace& trace) {
  const thole::PinnedArena arena(device, {.bytes = trace.peak / 2 * 3});
  const thole::PinnedHeap heap(arena);
  std::vector<std::optional<Buffer>> buffers(trace.sizes.size());
  std::size_t alive = 0, most_alive[4]{}, most_taken[4]{}, refused = 0, mapped_by_first = 0;
  for (std::size_t i = 0; i < trace.steps.size(); ++i) {
    const Step& step = trace.steps[i];
    const std::size_t quarter = i * 4 / trace.steps.size();
    if (step.bytes != 0) {
      auto made = heap.try_make_buffer<std::byte>(step.bytes);
      if (!made) {
        ++refused;
        continue;
      }
      buffers[step.id].emplace(std::move(*made));
      alive += step.bytes;
    } else if (buffers[step.id]) {
      buffers[step.id].reset();
      alive -= trace.sizes[step.id];
    }
    most_alive[quarter] = std::max(most_alive[quarter], alive);
    if (i % 64 == 0) {
      const auto stats = arena.stats();
      most_taken[quarter] = std::max(most_taken[quarter], stats.in_use + stats.in_flight + stats.cached + stats.wasted);
      if (quarter == 0) mapped_by_first = stats.peak;
    }
  }
  const auto ratio = [&](std::size_t quarter) {
    return static_cast<double>(most_taken[quarter]) /
           static_cast<double>(std::max<std::size_t>(most_alive[quarter], 1));
  };
  figures.at_most("peak of the last quarter of two million random buffers over that of the first", ratio(3) / ratio(0),
                  1.02, "x",
                  fmt::format("{:.3f} and {:.3f} x the bytes alive; arena's peak {:.0f} then {:.0f} MiB; {} refused in "
                              "an arena of 1.5 x",
                              ratio(0), ratio(3), static_cast<double>(mapped_by_first) / MiB,
                              static_cast<double>(arena.stats().peak) / MiB, refused));
}

}  // namespace

void hand_out(Figures& figures, const thole::Device& device) {
  const thole::PinnedArena arena(device, {.bytes = GiB});
  const thole::PinnedHeap heap(arena);
  std::size_t counts[2][6]{};
  for (std::size_t order = 0; order < 2; ++order)
    for (const std::size_t i : orders[order]) counts[order][i] = fill(heap, sizes[i].bytes);
  for (std::size_t i = 0; i < std::size(sizes); ++i) {
    const auto per_cent = [&](std::size_t count) {
      return 100.0 * static_cast<double>(count * sizes[i].bytes) / static_cast<double>(GiB);
    };
    figures.at_least(fmt::format("of a 1 GiB arena handed out as {}, the worse of two orders", sizes[i].name),
                     per_cent(std::min(counts[0][i], counts[1][i])), sizes[i].target, "%",
                     fmt::format("{} buffers in order, {} shuffled", counts[0][i], counts[1][i]));
  }
}

void traces(Figures& figures, const thole::Device& device) {
  least_arena(figures, device, "data loader", data_loader(400, 1));
  least_arena(figures, device, "inference server", inference_server(60000, 2));
  creeping(figures, device, anything(2000000, 3));
}

}  // namespace bench
