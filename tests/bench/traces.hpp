#pragma once

// Sizes and lifetimes as programs have them.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <iterator>
#include <random>
#include <utility>
#include <vector>

namespace bench {

struct Step {
  std::size_t bytes;  // 0: a drop
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
  /// What rounding to powers of two, PyTorch's rule, takes at its peak, over the bytes alive at theirs.
  double rounded_peak() const {
    std::size_t now = 0, most = 0;
    for (const Step& step : steps) {
      const std::size_t size = std::bit_ceil(sizes[step.id]);
      now = step.bytes != 0 ? now + size : now - size;
      most = std::max(most, now);
    }
    return static_cast<double>(most) / static_cast<double>(peak);
  }
};

inline std::size_t lognormal(std::mt19937_64& random, double middle, double sigma) {
  const double bytes = std::lognormal_distribution(std::log(middle), sigma)(random);
  return std::clamp(static_cast<std::size_t>(bytes), std::size_t{64}, std::size_t{4} << 20);
}

/// Samples are decoded one by one and collected into batches; these leave in order, eight being prefetched.
inline Trace data_loader(std::size_t batches, std::uint64_t seed) {
  Trace trace;
  std::mt19937_64 random(seed);
  std::deque<std::vector<std::size_t>> queue;
  for (std::size_t batch = 0; batch < batches; ++batch) {
    std::vector<std::size_t> samples;
    for (int i = 0; i < 64; ++i) {
      samples.push_back(trace.take(lognormal(random, 150e3, 0.6)));
      samples.push_back(trace.take(64 + random() % 2000));  // labels and boxes
    }
    queue.push_back({trace.take(64 * 3 * 224 * 224), trace.take(64 * 8)});
    std::shuffle(samples.begin(), samples.end(), random);
    for (const std::size_t id : samples) trace.give(id);
    if (queue.size() > 8) {
      for (const std::size_t id : queue.front()) trace.give(id);
      queue.pop_front();
    }
  }
  return trace;
}

/// Requests in batches of 1 to 8; each has an input, scratch and an output, takes its time, and is gone as a whole; the
/// server's own buffers stay.
inline Trace inference_server(std::size_t requests, std::uint64_t seed) {
  constexpr std::size_t shapes[]{4 * 3 * 224 * 224, 3 * 640 * 640, 4 * 4096, 2 * 1024 * 80, 8 * 512};
  Trace trace;
  std::mt19937_64 random(seed);
  std::vector<std::pair<double, std::vector<std::size_t>>> open;  // when it ends, what it has
  for (int i = 0; i < 20; ++i) trace.take(lognormal(random, 1e6, 1.0));
  std::lognormal_distribution<double> takes(std::log(200.0), 0.3);
  for (std::size_t now = 0; now < requests; ++now) {
    std::erase_if(open, [&](const auto& request) {
      if (request.first > static_cast<double>(now)) return false;
      for (const std::size_t id : request.second) trace.give(id);
      return true;
    });
    const std::size_t batch = random() % 3 != 0 ? 1 + random() % 4 : 1 + random() % 8;
    const std::size_t shape = shapes[random() % std::size(shapes)];
    open.push_back({static_cast<double>(now) + takes(random),
                    {trace.take(batch * shape), trace.take(batch * 4 * 1000), trace.take(batch * 64)}});
  }
  return trace;
}

/// Sizes of every kind, 600 to 900 of them alive, without any order.
inline Trace anything(std::size_t buffers, std::uint64_t seed) {
  Trace trace;
  std::mt19937_64 random(seed);
  std::vector<std::size_t> open;
  for (std::size_t i = 0; i < buffers; ++i) {
    open.push_back(trace.take(lognormal(random, 60e3, 1.5)));
    while (open.size() > 900 || (open.size() > 600 && random() % 2 == 0)) {
      std::swap(open[random() % open.size()], open.back());
      trace.give(open.back());
      open.pop_back();
    }
  }
  return trace;
}

}  // namespace bench
