#include "backend/simulated/capture.hpp"

#include <algorithm>

#include "backend/simulated/call.hpp"

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
    event.captured->streams.push_back(stream);  // before anything changes: there may be no memory
    stream->capture = event.captured;
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

}  // namespace thole::inline v0_1::detail::simulated
