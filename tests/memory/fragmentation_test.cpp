// Waste: how much more than the bytes alive an arena needs for the traces of real programs, and whether that grows with
// time.

#include <bit>
#include <cmath>
#include <deque>
#include <functional>
#include <random>

#include "fixture.hpp"

using namespace memory_test;

namespace {

struct Step {
  std::size_t bytes;  // 0: a free
  std::size_t id;
};

struct Trace {
  std::vector<Step> steps;
  std::vector<std::size_t> sizes;  // by id
  std::size_t alive = 0, peak = 0;

  std::size_t take(std::size_t bytes) {
    steps.push_back({bytes, sizes.size()});
    sizes.push_back(bytes);
    alive += bytes;
    peak = std::max(peak, alive);
    return sizes.size() - 1;
  }
  void give(std::size_t id) {
    steps.push_back({0, id});
    alive -= sizes[id];
  }
};

/// Per cent of `capacity` over the bytes alive that power-of-two rounding, PyTorch's rule, would take at the peak.
double rounded_peak(const Trace& trace) {
  std::size_t alive = 0, peak = 0;
  for (const Step& step : trace.steps) {
    const std::size_t size = std::bit_ceil(trace.sizes[step.id]);
    alive = step.bytes != 0 ? alive + size : alive - size;
    peak = std::max(peak, alive);
  }
  return static_cast<double>(peak) / static_cast<double>(trace.peak);
}

/// The first step that fails in an arena of so many bytes, or the number of steps.
std::size_t run(const Machine& machine, const Trace& trace, std::size_t bytes) {
  const OpenStore store(machine, bytes);
  Blocks blocks(trace.sizes.size(), nullptr);
  std::size_t done = 0;
  for (; done < trace.steps.size(); ++done) {
    const Step& step = trace.steps[done];
    if (step.bytes == 0) {
      give(*store, std::exchange(blocks[step.id], nullptr));
    } else if ((blocks[step.id] = take(*store, step.bytes, 64)) == nullptr) {
      break;
    }
  }
  for (Block* block : blocks)
    if (block != nullptr) give(*store, block);
  return done;
}

void fits_in(const Trace& trace, double factor) {
  const Machine machine;
  const auto bytes = static_cast<std::size_t>(static_cast<double>(trace.peak) * factor);
  MESSAGE("peak of bytes alive " << trace.peak / MiB << " MiB; with power-of-two sizes " << rounded_peak(trace)
                                 << " times that");
  CHECK(run(machine, trace, bytes) == trace.steps.size());
}

std::size_t lognormal(std::mt19937_64& random, double median, double sigma, std::size_t most) {
  const double bytes = std::lognormal_distribution(std::log(median), sigma)(random);
  return std::clamp(static_cast<std::size_t>(bytes), std::size_t{64}, most);
}

/// Samples are decoded one by one, collected into batches, and batches leave in order, a few of them being prefetched.
Trace data_loader(std::size_t batches, std::uint64_t seed) {
  Trace trace;
  std::mt19937_64 random(seed);
  std::deque<std::vector<std::size_t>> queue;
  for (std::size_t batch = 0; batch < batches; ++batch) {
    std::vector<std::size_t> samples;
    for (int i = 0; i < 64; ++i) {
      samples.push_back(trace.take(lognormal(random, 150e3, 0.6, 4 * MiB)));
      samples.push_back(trace.take(64 + random() % 2000));  // labels and boxes
    }
    std::vector<std::size_t> collected{trace.take(64 * 3 * 224 * 224), trace.take(64 * 8)};
    std::shuffle(samples.begin(), samples.end(), random);
    for (const std::size_t id : samples) trace.give(id);
    queue.push_back(collected);
    if (queue.size() > 8) {
      for (const std::size_t id : queue.front()) trace.give(id);
      queue.pop_front();
    }
  }
  return trace;
}

/// Requests come in batches of 1 to 8, with images, tokens or sound; each needs its input, something to work with and
/// its output, takes its time, and is gone as a whole; the server's own buffers stay for ever.
Trace inference(std::size_t requests, std::uint64_t seed) {
  constexpr std::size_t shapes[]{4 * 3 * 224 * 224, 3 * 640 * 640, 4 * 4096, 2 * 1024 * 80, 8 * 512};
  Trace trace;
  std::mt19937_64 random(seed);
  std::vector<std::pair<double, std::vector<std::size_t>>> open;  // when it ends, what it has
  for (int i = 0; i < 20; ++i) trace.take(lognormal(random, 1e6, 1.0, 4 * MiB));
  std::lognormal_distribution<double> takes(std::log(200.0), 0.3);
  for (std::size_t now = 0; now < requests; ++now) {
    for (std::size_t i = open.size(); i-- > 0;)
      if (open[i].first <= static_cast<double>(now)) {
        for (const std::size_t id : open[i].second) trace.give(id);
        open.erase(open.begin() + static_cast<std::ptrdiff_t>(i));
      }
    const std::size_t batch = random() % 3 != 0 ? 1 + random() % 4 : 1 + random() % 8;
    const std::size_t shape = shapes[random() % std::size(shapes)];
    open.push_back({static_cast<double>(now) + takes(random),
                    {trace.take(batch * shape), trace.take(batch * 4 * 1000), trace.take(batch * 64)}});
  }
  return trace;
}

/// Sizes of every kind, as unlike each other as can be.
Trace anything(std::size_t steps, std::uint64_t seed) {
  Trace trace;
  std::mt19937_64 random(seed);
  std::vector<std::size_t> open;
  for (std::size_t i = 0; i < steps; ++i) {
    open.push_back(trace.take(lognormal(random, 60e3, 1.5, 4 * MiB)));
    while (open.size() > 900 || (open.size() > 600 && random() % 2 == 0)) {
      std::swap(open[random() % open.size()], open.back());
      trace.give(open.back());
      open.pop_back();
    }
  }
  return trace;
}

}  // namespace

TEST_CASE("a data loader's trace fits into 1.15 times its bytes alive") { fits_in(data_loader(400, 1), 1.15); }

TEST_CASE("an inference server's trace fits into 1.15 times its bytes alive") { fits_in(inference(60000, 2), 1.15); }

TEST_CASE("random sizes and lifetimes need no more after a million steps than after the first thousands") {
  // Lifetimes without any order are the worst that there is; what counts is that the same room is enough for ever.
  fits_in(anything(5000, 3), 1.22);
  fits_in(anything(500000, 3), 1.22);
}
