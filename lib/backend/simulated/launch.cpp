#include "backend/simulated/launch.hpp"

#include <algorithm>
#include <numeric>

#include "backend/simulated/call.hpp"
#include "backend/simulated/capture.hpp"
#include "backend/simulated/run.hpp"

namespace thole::inline v0_1::detail::simulated {

namespace {

using PointPtr = std::shared_ptr<Point>;

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

/// Where there are several branches, a copy moves its bytes in several parts, in any order, so that a forgotten join
/// shows whoever begins.
void split(Step& step, std::mt19937_64& random) {
  constexpr std::size_t most_parts = 8;
  if (step.node->operation.kind != Operation::Kind::copy) return;
  step.of = std::clamp<std::size_t>(step.node->operation.bytes, 1, most_parts);
  step.parts.resize(step.of);
  std::iota(step.parts.begin(), step.parts.end(), std::size_t{0});
  std::ranges::shuffle(step.parts, random);
}

bool has_branches(const Graph& graph) {
  return std::ranges::any_of(graph.nodes, [&](const Node& node) { return node.stream != graph.nodes.front().stream; });
}

/// The nodes in one of the orders that respect all dependencies: the seed picks which branch goes on.
std::vector<Step> pick_order(const Graph& graph, std::mt19937_64& random) {
  std::map<std::uint64_t, std::deque<Step>> branches;
  for (const Node& node : graph.nodes) branches[node.stream].push_back({&node});
  if (branches.size() > 1)
    for (auto& [stream, steps] : branches)
      for (Step& step : steps) split(step, random);
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

void enqueue_mark(const StreamPtr& stream, Operation::Kind kind, const PointPtr& point, std::size_t places = 0) {
  Operation mark;
  mark.kind = kind;
  mark.point = point;
  mark.of_branches = true;
  mark.places = places;
  enqueue(stream, std::move(mark));
}

/// A branch of one launch.
struct Branch {
  StreamPtr stream;
  std::vector<PointPtr> after;                   // each of its nodes
  std::map<std::uint64_t, std::size_t> follows;  // so many nodes of each other branch, as far as it has been filled
};

/// One launch, whose end is `end`. The machine is locked for all of it: nothing of it runs before it is complete.
class Launch {
 public:
  Launch(const std::shared_ptr<const Graph>& graph, const StreamPtr& stream, const PointPtr& end)
      : graph_(graph),
        stream_(stream),
        end_(end),
        length_before_(stream->queue.size()),
        enqueued_before_(stream->enqueued),
        places_before_(stream->places) {
    for (const Node& node : graph->nodes)
      if (SimulatedEvent* const event = event_of(node.operation))
        recorded_before_.push_back({event, event->point, event->captured});
  }

  /// Behind the executable's latest launch, if there was one.
  void after(const PointPtr& latest);
  void in_order();
  void beside();
  /// It did not come about, for want of memory: all is as it was before.
  void undo() noexcept;

 private:
  struct RecordedBefore {
    SimulatedEvent* event;
    PointPtr point;
    std::shared_ptr<Capture> captured;
  };

  static SimulatedEvent* event_of(const Operation& operation) {
    return operation.event == nullptr ? nullptr : find_event(operation.event);
  }
  Operation launched(const Step& step, PointPtr point) const;

  const std::shared_ptr<const Graph>& graph_;
  const StreamPtr& stream_;
  const PointPtr& end_;
  const std::size_t length_before_;
  const std::uint64_t enqueued_before_;
  const std::size_t places_before_;
  std::map<std::uint64_t, Branch> branches_;
  std::vector<RecordedBefore> recorded_before_;
};

/// The step as an operation of this launch, not its last. What the graph records is recorded here: `point` is that of
/// the launch.
Operation Launch::launched(const Step& step, PointPtr point) const {
  Operation operation = step.operation();
  operation.graph = graph_;
  operation.places = step.parts.size() == 1 ? 1 : 0;  // the node's, with its last part
  operation.point = std::move(point);
  if (SimulatedEvent* const event = event_of(operation)) {
    event->point = operation.point;
    event->captured.reset();
  }
  return operation;
}

void Launch::after(const PointPtr& latest) {
  if (latest == nullptr || latest->done) return;
  Operation wait;
  wait.kind = Operation::Kind::wait;
  wait.point = latest;
  wait.places = 0;
  enqueue(stream_, std::move(wait));
}

/// All of the graph in the stream's queue, one after the other.
void Launch::in_order() {
  const auto order = pick_order(*graph_, stream_->device->random);
  for (const Step& step : order) {
    const bool last = &step == &order.back();
    const bool records = step.node->operation.event != nullptr;
    enqueue(stream_, launched(step, last ? end_ : records ? std::make_shared<Point>() : nullptr));
  }
}

/// The first branch in the stream's queue, each other one in a stream that nobody else knows, which begins where the
/// launch does and ends with its branch. Who waits, waits by points: a branch that stands still holds no other.
void Launch::beside() {
  SimulatedDevice& device = *stream_->device;
  const auto start = std::make_shared<Point>();
  enqueue_mark(stream_, Operation::Kind::record, start);
  for (const Node& node : graph_->nodes) {
    Branch& branch = branches_[node.stream];
    if (branch.stream == nullptr && branches_.size() == 1) {
      branch.stream = stream_;
    } else if (branch.stream == nullptr) {
      branch.stream = make_stream(device);
      branch.stream->destroyed = true;
      enqueue_mark(branch.stream, Operation::Kind::wait, start);
    }
    for (const auto& [other, count] : node.after) {
      auto& follows = branch.follows[other];
      if (other == node.stream || follows >= count) continue;
      follows = count;
      enqueue_mark(branch.stream, Operation::Kind::wait, branches_.at(other).after.at(count - 1));
    }
    Step step{&node};
    split(step, device.random);
    branch.after.push_back(std::make_shared<Point>());
    for (; !step.parts.empty(); step.parts.pop_back()) {
      Operation operation = launched(step, step.parts.size() == 1 ? branch.after.back() : nullptr);
      operation.of_branches = true;
      operation.places = 0;  // of the launching stream's queue, as long as the launch goes on
      enqueue(branch.stream, std::move(operation));
    }
  }
  for (const auto& [id, branch] : branches_)
    if (branch.stream != stream_) enqueue_mark(stream_, Operation::Kind::wait, branch.after.back());
  enqueue_mark(stream_, Operation::Kind::record, end_, graph_->nodes.size());
}

void Launch::undo() noexcept {
  while (stream_->queue.size() != length_before_) stream_->queue.pop_back();
  stream_->enqueued = enqueued_before_;
  stream_->places = places_before_;
  for (const auto& [id, branch] : branches_) {
    if (branch.stream == nullptr || branch.stream == stream_) continue;
    branch.stream->queue.clear();
    stream_->device->streams.erase(branch.stream->id);
  }
  for (const auto& [event, point, captured] : recorded_before_) {
    event->point = point;
    event->captured = captured;
  }
}

}  // namespace

Status launch_executable(GraphExec& exec, const StreamPtr& stream) {
  const auto& graph = exec.graph;
  if (stream->capture) {
    if (stream->capture->invalidated) return refuse(Refusal::capture_invalidated);
    invalidate(*stream->capture);
    return refuse(Refusal::capture_unsupported);
  }
  if (graph->nodes.empty()) return {};
  const auto end = std::make_shared<Point>();
  Launch launch(graph, stream, end);
  try {
    launch.after(exec.last);
    // On a stepped device whoever steps the stream steps all of the launch.
    if (stream->device->options.stepped || !has_branches(*graph))
      launch.in_order();
    else
      launch.beside();
  } catch (...) {
    launch.undo();
    throw;
  }
  exec.last = end;
  return {};
}

}  // namespace thole::inline v0_1::detail::simulated
