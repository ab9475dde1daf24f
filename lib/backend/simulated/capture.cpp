#include "backend/simulated/capture.hpp"

#include <algorithm>
#include <numeric>

#include "backend/simulated/call.hpp"
#include "backend/simulated/run.hpp"

namespace thole::inline v0_1::detail::simulated {

namespace {

/// The capture is over: its streams go on as ordinary ones. Its graph is returned, and no event keeps that alive.
std::shared_ptr<Graph> finish(Capture& capture) {
  capture.ended = true;
  for (const auto& stream : capture.streams) {
    stream->capture.reset();
    stream->seen.clear();
  }
  capture.streams.clear();
  capture.origin.reset();
  std::erase_if(machine().captures, [&](const auto& other) { return other.get() == &capture; });
  return std::move(capture.graph);
}

/// Whether every node of every forked stream comes before the origin's next one.
bool joined(const Capture& capture) {
  return std::all_of(capture.streams.begin(), capture.streams.end(), [&](const auto& stream) {
    const auto made = stream->seen.find(stream->id);
    if (made == stream->seen.end()) return true;
    const auto known = capture.origin->seen.find(stream->id);
    return known != capture.origin->seen.end() && known->second >= made->second;
  });
}

/// A node of a graph, or one of the parts that its bytes are moved in.
struct Step {
  const Node* node;
  std::vector<std::size_t> parts{0};  // that are left to be moved: the last is the next
  std::size_t of = 1;

  Operation operation() const {
    Operation made = node->operation;
    if (of == 1) return made;
    const std::size_t from = made.bytes * parts.back() / of;
    made.destination = static_cast<std::byte*>(made.destination) + from;
    made.source = static_cast<const std::byte*>(made.source) + from;
    made.bytes = made.bytes * (parts.back() + 1) / of - from;
    return made;
  }
};

void split(Step& step, std::mt19937_64& random, std::size_t most_parts) {
  step.of = std::clamp<std::size_t>(step.node->operation.bytes, 1, most_parts);
  step.parts.resize(step.of);
  std::iota(step.parts.begin(), step.parts.end(), std::size_t{0});
  std::ranges::shuffle(step.parts, random);
}

/// The nodes in one of the orders that respect all dependencies. Branches run beside each other: the seed picks which
/// one goes on, and where there are several a copy goes on `most_parts` times, so that a forgotten join shows whoever
/// begins.
std::vector<Step> pick_order(const Graph& graph, std::mt19937_64& random, std::size_t most_parts) {
  std::map<std::uint64_t, std::deque<Step>> branches;
  for (const Node& node : graph.nodes) branches[node.stream].push_back({&node});
  if (branches.size() > 1)
    for (auto& [stream, steps] : branches)
      for (Step& step : steps)
        if (step.node->operation.kind == Operation::Kind::copy) split(step, random, most_parts);
  std::map<std::uint64_t, std::size_t> done;
  const auto ready = [&](const Node& node) {
    return std::ranges::all_of(node.after, [&](const auto& before) { return done[before.first] >= before.second; });
  };
  std::vector<Step> order;
  for (;;) {
    std::vector<std::uint64_t> able;
    for (const auto& [stream, left] : branches) {
      if (!left.empty() && ready(*left.front().node)) able.push_back(stream);
    }
    if (able.empty()) return order;
    const std::uint64_t picked = able[able.size() == 1 ? 0 : random() % able.size()];
    Step& next = branches[picked].front();
    order.push_back(next);
    next.parts.pop_back();
    if (!next.parts.empty()) continue;
    branches[picked].pop_front();
    ++done[picked];
  }
}

}  // namespace

CaptureMode& thread_capture_mode() noexcept {
  thread_local CaptureMode mode = CaptureMode::global;
  return mode;
}

bool forbidden_by_capture() noexcept {
  const CaptureMode mode = thread_capture_mode();
  if (mode == CaptureMode::relaxed) return false;
  bool forbidden = false;
  for (const auto& capture : machine().captures) {
    const bool own = capture->thread == thread_number();
    const bool forbids = own ? capture->mode != CaptureMode::relaxed
                             : mode == CaptureMode::global && capture->mode == CaptureMode::global;
    if (!forbids) continue;
    invalidate(*capture);
    forbidden = true;
  }
  return forbidden;
}

void invalidate(Capture& capture) noexcept { capture.invalidated = true; }

void discard(const std::shared_ptr<Capture>& capture, Garbage& garbage) {
  auto graph = finish(*capture);
  machine().graphs.erase(graph.get());
  garbage.push_back(std::move(graph));
}

Status capture_node(SimulatedStream& stream, Operation operation) {
  Capture& capture = *stream.capture;
  if (capture.invalidated) return refuse(Refusal::capture_invalidated);
  capture.graph->nodes.push_back({std::move(operation), stream.id, stream.seen});
  ++stream.seen[stream.id];
  return {};
}

Status capture_record(SimulatedStream& stream, SimulatedEvent& event) {
  if (stream.capture->invalidated) return refuse(Refusal::capture_invalidated);
  event.point.reset();
  event.captured = stream.capture;
  event.captured_after = stream.seen;
  return {};
}

Status capture_wait(const StreamPtr& stream, SimulatedEvent& event) {
  const auto mine = stream->capture;
  const auto refuse_both = [&](Refusal why) {
    if (mine) invalidate(*mine);
    if (event.captured && !event.captured->ended) invalidate(*event.captured);
    return refuse(why);
  };
  if (mine && mine->invalidated) return refuse(Refusal::capture_invalidated);
  if (!event.captured) return event.point ? refuse_both(Refusal::capture_isolation) : Status{};
  if (event.captured->ended) return refuse_both(Refusal::captured_event);
  if (event.captured->invalidated) return refuse_both(Refusal::capture_invalidated);
  if (mine && mine != event.captured) return refuse_both(Refusal::capture_merge);
  if (!mine) {
    stream->capture = event.captured;
    event.captured->streams.push_back(stream);
  }
  for (const auto& [id, count] : event.captured_after) stream->seen[id] = std::max(stream->seen[id], count);
  return {};
}

Status start_capture(const StreamPtr& stream, CaptureMode mode) {
  Machine& all = machine();
  if (stream->capture) return refuse(Refusal::illegal_state);
  auto capture = std::make_shared<Capture>();
  capture->id = ++all.last_capture_id;
  capture->thread = thread_number();
  capture->mode = mode;
  capture->graph = std::make_shared<Graph>();
  capture->graph->capturing = true;
  capture->origin = stream;
  capture->streams.push_back(stream);
  all.graphs.emplace(capture->graph.get(), capture->graph);
  all.captures.push_back(capture);
  stream->capture = std::move(capture);
  return {};
}

Status finish_capture(const StreamPtr& stream, GraphHandle* graph, Garbage& garbage) {
  const auto capture = stream->capture;
  if (!capture) return refuse(Refusal::illegal_state);
  if (capture->origin != stream) {
    invalidate(*capture);
    return refuse(Refusal::capture_unmatched);
  }
  if (capture->mode != CaptureMode::relaxed && capture->thread != thread_number()) {
    discard(capture, garbage);
    return refuse(Refusal::capture_wrong_thread);
  }
  if (capture->invalidated || !joined(*capture)) {
    const Refusal why = capture->invalidated ? Refusal::capture_invalidated : Refusal::capture_unjoined;
    discard(capture, garbage);
    return refuse(why);
  }
  const auto made = finish(*capture);
  made->capturing = false;
  *graph = made.get();
  return {};
}

Status launch_executable(GraphExec& exec, const StreamPtr& stream) {
  const auto& graph = exec.graph;
  if (stream->capture) {
    if (stream->capture->invalidated) return refuse(Refusal::capture_invalidated);
    for (const Step& step : pick_order(*graph, stream->device->random, 1)) {
      if (const Status status = capture_node(*stream, step.operation()); !status.ok()) return status;
    }
    auto& retained = stream->capture->graph->retained;
    retained.insert(retained.end(), graph->retained.begin(), graph->retained.end());
    return {};
  }
  if (graph->nodes.empty()) return {};
  if (exec.last && !exec.last->done) {
    Operation wait;
    wait.kind = Operation::Kind::wait;
    wait.point = exec.last;
    enqueue(stream, std::move(wait));
  }
  exec.last = std::make_shared<Point>();
  constexpr std::size_t most_parts = 8;
  auto order = pick_order(*graph, stream->device->random, most_parts);
  for (const Step& step : order) {
    Operation operation = step.operation();
    operation.graph = graph;
    if (operation.event != nullptr) {
      operation.point = std::make_shared<Point>();
      if (SimulatedEvent* const event = find_event(operation.event)) {
        event->point = operation.point;
        event->captured.reset();
      }
    }
    if (&step == &order.back()) {
      if (operation.point != nullptr)
        exec.last = operation.point;
      else
        operation.point = exec.last;
    }
    enqueue(stream, std::move(operation));
  }
  return {};
}

}  // namespace thole::inline v0_1::detail::simulated
