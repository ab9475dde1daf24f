// Graphs that the program captures with calls of the device's own, as CUDA's, and then hands to thole, at once or long
// afterwards: Graph::from_native. Launches of them are seen as those of thole's own graphs are.

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "api/handle_access.hpp"
#include "program.hpp"

namespace model {
namespace {

namespace detail = thole::detail;

detail::DeviceBackend& backend(const thole::Device& device) { return *detail::HandleAccess::core(device)->backend; }

void or_throw(const detail::Status& status, Errc code) {
  if (!status.ok()) throw thole::Error(code, "a call of the device's own was refused");
}

}  // namespace

void Program::capture_by_hand() {
  Lane* const lane = pick_lane(false);
  if (lane == nullptr || traits_.after_all || graphs_.size() > 8) return;
  constexpr detail::CaptureMode modes[] = {detail::CaptureMode::global, detail::CaptureMode::thread_local_,
                                           detail::CaptureMode::relaxed};
  // With work that thole is not told of: then each launch names all.
  const bool mixed = chance(4) && !buffers_.empty();
  say(fmt::format("{} is captured by hand{}", lane->id, mixed ? ", with work of the program's own" : ""));
  auto& seam = backend(device(*lane));
  void* const native = lane->ref->native();
  if (call(true, {}, [&] { or_throw(seam.begin_capture(native, modes[below(3)]), Errc::device_error); })) return;
  lane->capture.emplace();
  lane->capture->elsewhere = mixed;
  const auto own_work = [&] {
    (void)call(true, {}, [&] {
      for (std::size_t left = 1 + below(2); left != 0 && !buffers_.empty(); --left)
        capture_raw_work(*lane->capture, *lane, native, *pick_buffer());
    });
  };
  only_capture_ = lane->capture->nodes.get();
  if (mixed) own_work();
  work_in_capture(false);
  only_capture_ = nullptr;
  const bool joined = join_branches(*lane);
  if (mixed && joined) own_work();
  Graph graph = std::move(*lane->capture);
  const auto failed = call(true, {joined ? Errc::device_lost : Errc::capturing},
                           [&] { or_throw(seam.end_capture(native, &graph.native), Errc::capturing); });
  lane->capture.reset();
  branches_end(lane->id);
  if (lane->ref->capturing()) broken("a stream captures after the end");
  graph.life->graph = !failed;
  if (failed) return ledger_.look();
  graph.device = lane->device;
  say(fmt::format("it has {} nodes", graph.nodes->size()));
  if (chance(2)) hand_over(graph);
  graphs_.push_back(std::move(graph));
  ledger_.look();
}

void Program::hand_over(Graph& graph) {
  say(fmt::format("a graph of {} nodes is handed to thole", graph.nodes->size()));
  const auto native = static_cast<thole::NativeGraph>(graph.native);
  const thole::Device& device = devices_[graph.device];
  if (chance(8)) {  // it stays the program's
    thole::Device moved = device;
    const thole::Device taken = std::move(moved);
    (void)call(false, {Errc::moved_from}, [&] { (void)thole::Graph::from_native(moved, native); });
  }
  auto made = thole::Graph::from_native(device, native);
  if (made.native() != native || !(made.device() == device)) broken("from_native gives another graph");
  graph.graph = std::move(made);
  graph.native = nullptr;
}

/// The program changes its mind.
void Program::destroy_native(Graph& graph) {
  say("the program destroys its own graph");
  if (!backend(devices_[graph.device]).destroy_graph(std::exchange(graph.native, nullptr)).ok())
    broken("a graph could not be destroyed");
  graph.life->graph = false;
}

}  // namespace model
