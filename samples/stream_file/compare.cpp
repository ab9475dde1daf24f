#include "compare.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <functional>
#include <stdexcept>

#include "interrupt.hpp"
#include "peers.hpp"

namespace stream_file {
namespace {

Comparison best_of(std::string key, std::string name, std::uint64_t bytes, const std::function<double()>& way) {
  double best = 0, all = 0;
  for (int i = 0; i < 3 && all < 1; ++i) {
    stop_if_interrupted();
    const double seconds = way();
    all += seconds;
    best = i == 0 ? seconds : std::min(best, seconds);
  }
  return {std::move(key), std::move(name), bytes, best};
}

}  // namespace

void compare_job(Summary& summary, const std::vector<InputFile>& files, std::uint64_t bytes,
                 const thole::PinnedHeap& heap, DeviceSide& device) {
  const auto again = [&](Check check) {
    Plan plan = summary.plan;
    plan.check = check;
    Feed feed(files, plan.chunk, bytes);
    Job job{feed, heap, device, plan};
    const Result result = run(job, [] {});
    if (result.bytes != bytes) throw std::runtime_error("the file changed in the meantime");
    return result.seconds;
  };
  const std::string threads =
      fmt::format("thole, {} thread{}, ", summary.plan.threads, summary.plan.threads == 1 ? "" : "s");
  if (summary.plan.check != Check::none)
    summary.ways.push_back(best_of("thole",
                                   threads + (summary.plan.check == Check::sum ? "checked by sums" : "checked in full"),
                                   bytes, [&] { return again(summary.plan.check); }));
  summary.ways.push_back(best_of("thole_unchecked", threads + "unchecked", bytes, [&] { return again(Check::none); }));
}

void compare_peers(Summary& summary, const std::vector<InputFile>& files, std::uint64_t bytes,
                   const thole::Device& device) {
  const PeerJob job{files, bytes, summary.plan.chunk, summary.plan.mode == Mode::round_trip};
  const auto peers = peers_for(device);
  if (peers.empty()) summary.notes.emplace_back("not compared with CUDA's own calls: built without CUDA");
  for (const Peer& peer : peers)
    summary.ways.push_back(best_of(peer.key, peer.name, bytes, [&] { return peer.run(job); }));
}

}  // namespace stream_file
