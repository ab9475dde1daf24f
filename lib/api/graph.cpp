#include <thole/graph.hpp>

#include <mutex>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include <thole/detail/kept.hpp>

#include "api/handle_access.hpp"
#include "api/held_uses.hpp"
#include "streams/stream_registry.hpp"
#include "streams/submission.hpp"

namespace thole::inline v0_1 {
namespace detail {

/// What each launch uses. It keeps the memory.
struct LaunchPlan {
  explicit LaunchPlan(std::shared_ptr<GraphUses> kept) : uses(std::move(kept)) {
    if (uses == nullptr) return;
    all = uses->all();
    writes = uses->writes(all);
  }
  const std::shared_ptr<GraphUses> uses;
  std::vector<Used> all;
  std::vector<std::shared_ptr<GraphWrite>> writes;  // of each of them, or none
  std::size_t nodes = 0;                            // of the graph
};

namespace {

Result<HeldUses::Hold> hold_all(HeldUses& held, const std::vector<Used>& all, const std::shared_ptr<DeviceCore>& device,
                                const char* call) noexcept {
  using Hold = HeldUses::Hold;
  if (!held.make_room(all.size())) return tl::unexpected(no_system_memory(call));
  for (const Used& used : all) {
    if (used.device_block != nullptr) {
      used.device_block->hold();  // the plan holds it, too
      const Hold hold = held.hold(*used.device_block, used.writes);
      if (hold == Hold::busy) return hold;
      if (hold == Hold::refused) return tl::unexpected(submitting_error(call, used.writes));
      continue;
    }
    if (auto fits = check_device(*used.block, device, call); !fits) return tl::unexpected(std::move(fits.error()));
    if (!held.hold(*used.block, used.writes)) return tl::unexpected(borrowed_error(*used.block, call, used.writes));
  }
  return Hold::taken;
}

}  // namespace

Result<void> launch_native(const StreamRef& stream, NativeGraphExec exec) noexcept {
  constexpr const char* call = "launch";
  auto timeline = HandleAccess::live_timeline(stream, call);
  if (!timeline) return tl::unexpected(std::move(timeline.error()));
  DeviceCore& device = *(*timeline)->device();
  const Status status = device.note(device.backend->launch_graph(exec, (*timeline)->native()));
  if (!status.ok()) return tl::unexpected(device.error(status, call, "launching the graph"));
  return {};
}

// ---- Capturing

Result<GraphCapture> GraphCapture::begin(const StreamRef& stream, const CaptureOptions& options) noexcept {
  constexpr const char* call = "capture";
  auto found = HandleAccess::live_timeline(stream, call);
  if (!found) return tl::unexpected(std::move(found.error()));
  Timeline& timeline = **found;
  const Timeline::Call going_on(timeline);
  DeviceCore& device = *timeline.device();
  // What was enqueued before gets its event: there can be none while the capture goes on.
  (void)timeline.cover_all();
  CaptureInfo info;
  Status status = timeline.capture_info(&info);
  if (status.ok() && info.state != CaptureInfo::State::none)
    return tl::unexpected(Error::make(
        Errc::capturing, [&] { return std::string(call) + ": a graph capture is going on in the stream already"; }));
  if (status.ok()) status = timeline.begin_capture();
  if (status.code == StatusCode::not_ready)
    return tl::unexpected(Error::make(Errc::in_flight, [&] {
      return std::string(call) + ": another thread synchronizes with the stream, which CUDA allows no capture of";
    }));
  if (!status.ok()) return tl::unexpected(device.error(status, call, "beginning a capture"));
  GraphCapture capture(HandleAccess::shared(stream));
  const auto launches =
      options.completion == Completion::each_write ? GraphLaunches::seen_by_write : GraphLaunches::seen;
  status = timeline.capture_info(&info);
  if (status.ok()) status = device.streams->graphs.of_capture(timeline.device(), info, launches, &capture.uses_);
  if (!status.ok()) return tl::unexpected(device.error(status, call, "keeping a record in the graph"));
  return capture;
}

GraphCapture::~GraphCapture() {
  if (stream_ == nullptr || stream_->device()->of_another_process()) return;
  (void)end();
}

Result<Graph> GraphCapture::end() noexcept {
  constexpr const char* call = "capture";
  const std::shared_ptr<Timeline> timeline = std::exchange(stream_, nullptr);
  const Timeline::Call going_on(*timeline);
  DeviceCore& device = *timeline->device();
  if (!going_on)
    return tl::unexpected(
        Error::make(Errc::capturing, [&] { return std::string(call) + ": the stream was destroyed meanwhile"; }));
  GraphHandle handle = nullptr;
  const auto end_capture = [&] { return device.note(device.backend->end_capture(timeline->native(), &handle)); };
  Status status = end_capture();
  if (CaptureInfo info; !status.ok() && timeline->capture_info(&info).ok() && info.state != CaptureInfo::State::none)
    status = end_capture();     // a driver may refuse one call and take the next: a stream must not capture for ever
  (void)timeline->cover_all();  // what was noted in the capture and is older than it; see Submission::Of
  if (status.ok()) {
    Graph graph;
    graph.core_ = timeline->device();
    graph.graph_ = static_cast<NativeGraph>(handle);
    graph.uses_ = std::move(uses_);
    return graph;
  }
  if (status.code == StatusCode::device_lost) return tl::unexpected(device.lost_error(call));
  return tl::unexpected(
      device.error(status, call,
                   "ending the capture, which something has invalidated, or of which a stream was not "
                   "joined again,"));
}

}  // namespace detail

using detail::HandleAccess;
using detail::Status;

// ---- Graph

Graph Graph::from_native(const Device& device, NativeGraph native) {
  if (HandleAccess::core(device) == nullptr) throw detail::moved_from("Graph::from_native", "the device");
  Graph graph;
  graph.core_ = HandleAccess::core(device);
  graph.graph_ = native;
  if (!graph.core_->of_another_process()) graph.uses_ = graph.core_->streams->graphs.of_graph(graph.core_, native);
  return graph;
}

Graph::Graph(Graph&& other) noexcept
    : core_(std::move(other.core_)), graph_(std::exchange(other.graph_, nullptr)), uses_(std::move(other.uses_)) {}

Graph& Graph::operator=(Graph&& other) noexcept {
  Graph moved(std::move(other));
  std::swap(core_, moved.core_);
  std::swap(graph_, moved.graph_);
  std::swap(uses_, moved.uses_);
  return *this;
}

Graph::~Graph() {
  if (graph_ != nullptr && core_ != nullptr) core_->streams->graphs.end(core_, graph_, nullptr);
}

Device Graph::device() const {
  if (core_ == nullptr) throw detail::moved_from("Graph::device", "the graph");
  return HandleAccess::device(core_);
}

Result<GraphExec> Graph::try_instantiate() const noexcept try {
  constexpr const char* call = "Graph::instantiate";
  if (core_ == nullptr) return tl::unexpected(detail::moved_from(call, "the graph"));
  if (core_->lost()) return tl::unexpected(core_->lost_error(call));
  auto plan = std::make_shared<detail::LaunchPlan>(uses_);
  detail::GraphExecHandle exec = nullptr;
  const std::scoped_lock one_at_a_time(core_->streams->graphs.instantiating(graph_));
  const detail::CaptureGuard guard(*core_->backend);
  (void)core_->note(core_->backend->graph_nodes(graph_, &plan->nodes));
  if (const Status status = core_->note(core_->backend->instantiate_graph(graph_, &exec)); !status.ok())
    return tl::unexpected(core_->error(status, call, "instantiating the graph"));
  GraphExec made;
  made.core_ = core_;
  made.exec_ = static_cast<NativeGraphExec>(exec);
  made.plan_ = std::move(plan);
  return made;
} catch (const std::bad_alloc&) {
  return tl::unexpected(detail::no_system_memory("Graph::instantiate"));
}

NativeGraph Graph::native() const {
  if (core_ == nullptr) throw detail::moved_from("Graph::native", "the graph");
  if (core_->of_another_process()) throw core_->lost_error("Graph::native");
  return graph_;
}

// ---- GraphExec

GraphExec::GraphExec(GraphExec&& other) noexcept
    : core_(std::move(other.core_)), exec_(std::exchange(other.exec_, nullptr)), plan_(std::move(other.plan_)) {}

GraphExec& GraphExec::operator=(GraphExec&& other) noexcept {
  GraphExec moved(std::move(other));
  std::swap(core_, moved.core_);
  std::swap(exec_, moved.exec_);
  std::swap(plan_, moved.plan_);
  return *this;
}

GraphExec::~GraphExec() {
  if (exec_ != nullptr && core_ != nullptr) core_->streams->graphs.end(core_, nullptr, exec_);
}

Device GraphExec::device() const {
  if (core_ == nullptr) throw detail::moved_from("GraphExec::device", "the graph");
  return HandleAccess::device(core_);
}

Result<void> GraphExec::try_launch(const StreamRef& stream) noexcept {
  constexpr const char* call = "GraphExec::launch";
  if (core_ == nullptr) return tl::unexpected(detail::moved_from(call, "the graph"));
  if (core_->of_another_process()) return tl::unexpected(core_->lost_error(call));
  auto timeline = HandleAccess::live_timeline(stream, call);
  if (!timeline) return tl::unexpected(std::move(timeline.error()));
  const auto& device = (*timeline)->device();
  if (device->backend->simulated() != core_->backend->simulated())  // else any: each node knows its device
    return tl::unexpected(Error::make(Errc::wrong_device, [&] {
      return std::string(call) + ": the graph is of another kind of device than the stream";
    }));
  detail::HeldUses held(false);
  if (auto all = held.hold_patiently([&] { return detail::hold_all(held, plan_->all, device, call); }); !all)
    return all;
  auto work = HandleAccess::begin_work(stream, call);
  if (!work) return tl::unexpected(std::move(work.error()));
  const auto capturing = [&] {
    return tl::unexpected(Error::make(Errc::capturing, [&] {
      return std::string(call) +
             ": the stream captures a graph, of which CUDA makes no launch a part; capture the work itself";
    }));
  };
  if (work->capturing()) return capturing();
  const auto* const writes = plan_->writes.empty() ? nullptr : plan_->writes.data();
  if (auto used = work->use_all(held.data(), held.size(), writes); !used) return used;
  work->expect_long_work();
  work->takes(plan_->nodes + 1);
  {
    const detail::Timeline::NoCapture quiet(**timeline);
    if (quiet.status().code == detail::StatusCode::capture) return capturing();
    if (const Status status = device->backend->launch_graph(exec_, (*timeline)->native()); !status.ok())
      return tl::unexpected(work->error(status, "launching the graph"));
  }
  work->enqueued(held.bytes(), detail::Submission::Precision::at_once);
  return {};
}

NativeGraphExec GraphExec::native() const {
  if (core_ == nullptr) throw detail::moved_from("GraphExec::native", "the graph");
  if (core_->of_another_process()) throw core_->lost_error("GraphExec::native");
  return exec_;
}

}  // namespace thole::inline v0_1
