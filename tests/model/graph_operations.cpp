// Captures, and graphs and their executables in any order.

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "program.hpp"

namespace model {
namespace {

/// The node is a copy from pinned memory, or a kernel that reads it.
bool reads_host(const Node& node) { return node.to != nullptr ? node.to_device : !node.kernel_writes; }
/// Of its copy, in the launch that was just enqueued.
Parts position_of_node(std::uint64_t stream, const Node& node) {
  const Word* const to = node.to_device || node.place == nullptr ? node.to->data + node.to_offset : node.place;
  const Word* const from = !node.to_device || node.place == nullptr ? node.from->data + node.from_offset : node.place;
  return position_of_parts(stream, to, from, node.count * sizeof(Word));
}
/// nullptr: a kernel that uses nothing.
const MemoryPtr& host_side(const Node& node) { return node.to != nullptr && !node.to_device ? node.to : node.from; }

}  // namespace

void Program::capture() {
  if (traits_.after_all) return;
  Lane* const lane = pick(lanes_);
  if (lane == nullptr) return;
  if (lane->branch_of != 0) return fork_or_join();
  if (lane->capture) return end_capture(*lane);
  begin_capture(*lane);
}

void Program::begin_capture(Lane& lane) {
  say(fmt::format("begin_capture({})", lane.id));
  constexpr thole::SimulatedCaptureMode modes[] = {thole::SimulatedCaptureMode::global,
                                                   thole::SimulatedCaptureMode::thread_local_,
                                                   thole::SimulatedCaptureMode::relaxed};
  (void)call(true, {}, [&] { device(lane).simulation().begin_capture(*lane.ref, modes[below(3)]); });
  lane.capture.emplace();
  ledger_.look();
}

void Program::end_capture(Lane& lane) {
  say(fmt::format("end_capture({}) of {} nodes", lane.id, lane.capture->nodes->size()));
  if (!lane.ref->capturing()) broken("a capturing stream does not say so");
  // Whatever thole did meanwhile, it has not invalidated the capture; a branch that is left out has, if it has work.
  const Errc unjoined = join_branches(lane) ? Errc::device_lost : Errc::capturing;
  const auto failed =
      call(true, {unjoined}, [&] { lane.capture->graph = device(lane).simulation().end_capture(*lane.ref); });
  lane.capture->life->graph = !failed;
  if (!failed) graphs_.push_back(std::move(*lane.capture));
  lane.capture.reset();
  branches_end(lane.id);
  if (lane.ref->capturing()) broken("a stream captures after the end");
}

/// Some calls in the capture's streams alone, all of which become part of its graph.
void Program::work_in_capture(bool copies_alone) {
  for (std::size_t left = 1 + below(8); left != 0; --left) {
    if (chance(4)) {
      fork_or_join();
      continue;
    }
    switch (below(copies_alone ? 6 : 10)) {
      case 0:
        to_device_new();
        break;
      case 1:
      case 2:
        to_device_span();
        break;
      case 3:
      case 4:
        to_host_span();
        break;
      case 5:
        to_host_new();
        break;
      case 6:
        host_function();
        break;
      case 7:
        use_on();
        break;
      case 8:
        copy_by_place();
        break;
      default:
        use_several();
    }
  }
}

void Program::capture_by_thole() {
  Lane* const lane = pick_lane(false);
  if (lane == nullptr || traits_.after_all) return;
  const bool each_write = chance(2);
  const bool throws = chance(8);
  say(fmt::format("capture({}{})", lane->id, each_write ? ", each_write" : ""));
  struct Own {};
  std::optional<thole::Graph> made;
  Errc unjoined = Errc::device_lost;
  const auto f = [&] {
    lane->capture.emplace();
    lane->capture->seen = true;
    lane->capture->each_write = each_write;
    only_capture_ = lane->capture->nodes.get();
    work_in_capture(each_write);
    only_capture_ = nullptr;
    if (throws) throw Own();
    if (!join_branches(*lane)) unjoined = Errc::capturing;
  };
  try {
    (void)call(true, {Errc::capturing},
               [&] { made = thole::capture(*lane->ref, f, {each_write ? thole::each_write : thole::whole_launch}); });
  } catch (const Own&) {
    if (!throws) throw;
  }
  if (!lane->capture) return;
  Graph graph = std::move(*lane->capture);
  lane->capture.reset();
  branches_end(lane->id);
  if (lane->ref->capturing()) broken("a stream captures after the end");
  graph.graph = std::move(made);
  say(fmt::format("it has {} nodes", graph.nodes->size()));
  graph.life->graph = graph.graph.has_value();
  if (graph.graph) graphs_.push_back(std::move(graph));
  ledger_.look();
}

/// Whether there is one; mostly makes one where there is none.
bool Program::has_executable(Graph& graph) {
  if (graph.native != nullptr) hand_over(graph);
  if (graph.graph && graph.executables.size() < 3 && (graph.executables.empty() || chance(4))) {
    say("instantiate a graph");
    graph.executables.push_back(graph.graph->instantiate());
    ++graph.life->executables;
  }
  return !graph.executables.empty();
}

void Program::launch() {
  Graph* const graph = pick(graphs_);
  if (graph == nullptr || !has_executable(*graph)) return;
  if (graph->elsewhere || chance(6)) return launch_elsewhere(*graph);
  Lane* const lane = pick_lane(false);
  if (lane == nullptr) return;
  // Uses of pinned memory are thole's to order; of device memory, which a span may have named, the program's own duty.
  bool borrowed = false;
  for (const Node& node : *graph->nodes) {
    if (node.from != nullptr && node.to != nullptr) {
      if ((node.to_device ? node.to : node.from)->device != lane->device) return;
      if (!order(*lane, node.to_device ? *node.to : *node.from, node.to_device, true)) return;
    }
    const Memory* const host = host_side(node).get();
    if (host != nullptr && host->of_device && (host->device != lane->device || !order(*lane, *host, true))) return;
    borrowed = borrowed || (host != nullptr && (host->writer || (!reads_host(node) && host->readers != 0)));
  }
  say(fmt::format("launch a graph of {} nodes on {}{}", graph->nodes->size(), lane->id,
                  graph->forked ? ", forked" : ""));
  (void)ledger_.next_operation();
  const auto launch = [&] { graph->executables[below(graph->executables.size())].launch(*lane->ref); };
  // Raw memory that the graph has may have been given back in a stream that captures: no event says when.
  if (call(!borrowed, {Errc::borrowed, freed_in_capture_ ? Errc::capturing : Errc::borrowed}, launch)) return;
  launched(*graph, *lane, false);
  if (graph->each_write) read_beside(*graph);
}

/// What a launch that was just enqueued does. `all_named`: the program has named its device memory, too.
void Program::launched(Graph& graph, const Lane& lane, bool all_named) {
  const auto last = model::position_of_graph(lane.id);
  auto left = graph.nodes->size();
  for (const Node& node : *graph.nodes) {
    --left;
    if (host_side(node) == nullptr) continue;
    Memory& host = *host_side(node);
    const bool early = graph.each_write && !all_named;
    if (node.count != 0) {
      // A graph that has events, or branches, is not enqueued node for node.
      const auto found = graph.each_write || graph.forked
                             ? position_of_node(lane.id, node)
                             : Parts{last - std::min(last, left), last - std::min(last, left)};
      ledger_.launched(lane.id, found, node.from, node.from_offset, node.to, node.to_offset, node.count,
                       node.to_device);
      host.uses.pop_back();
      if (all_named) {
        Memory& other = node.to_device ? *node.to : *node.from;
        other.uses.pop_back();
        Ledger::note(other, {lane.id, last, node.to_device, true});
      }
      if (early && !node.to_device) {  // to be read then, and written when the launch is done
        Ledger::note(host, {lane.id, found.last, true, true});
        Ledger::note(host, {lane.id, last, false, true});
        continue;
      }
    }
    Ledger::note(host, {lane.id, last, !reads_host(node), true});  // the launch as a whole
  }
  std::erase_if(graph.life->launches, [&](const Use& use) { return !ledger_.open(use); });
  graph.life->launches.push_back({lane.id, last, true, false});
  ledger_.look();
}

/// What the launch writes, in other streams, while it goes on.
void Program::read_beside(const Graph& graph) {
  for (const Node& node : *graph.nodes) {
    const auto written = std::ranges::find(buffers_, node.to, &HostBuffer::memory);
    Lane* const other = pick_lane(false);
    if (written != buffers_.end() && other != nullptr && chance(2)) to_device_new(*written, *other);
  }
}

void Program::destroy_graph() {
  if (graphs_.empty()) return;
  std::swap(graphs_[below(graphs_.size())], graphs_.back());
  Graph& graph = graphs_.back();
  if (graph.native != nullptr) {
    if (chance(2))
      hand_over(graph);
    else
      destroy_native(graph);
  }
  say("destroy a graph or an executable");
  if (!graph.executables.empty() && (chance(2) || !graph.graph)) {
    std::swap(graph.executables[below(graph.executables.size())], graph.executables.back());
    graph.executables.pop_back();
    --graph.life->executables;
  } else if (graph.graph) {
    graph.graph.reset();
    graph.life->graph = false;
  }
  if (!graph.graph && graph.executables.empty()) graphs_.pop_back();
  ledger_.look();
}

}  // namespace model
