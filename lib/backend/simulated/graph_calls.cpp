// The seam's calls on captures and graphs.

#include "backend/simulated/backend.hpp"
#include "backend/simulated/call.hpp"
#include "backend/simulated/capture.hpp"
#include "backend/simulated/launch.hpp"

namespace thole::inline v0_1::detail {

using namespace simulated;

CaptureMode SimulatedBackend::exchange_capture_mode(CaptureMode mode) noexcept {
  return std::exchange(thread_capture_mode(), mode);
}

Status SimulatedBackend::retain_in_graph(GraphHandle graph, void* object, void (*released)(void*)) noexcept {
  return call(*device_, SimulatedCall::retain_in_graph, [&](Lock&) -> Status {
    const auto found = machine().graphs.find(graph);
    if (found == machine().graphs.end()) return refuse(Refusal::invalid_handle);
    if (released == nullptr) return refuse(Refusal::invalid_value);
    auto& retained = found->second->retained;
    retained.reserve(retained.size() + 1);  // so that nothing is released when memory runs out here
    retained.push_back(std::make_shared<Retained>(object, released));
    return {};
  });
}

Status SimulatedBackend::record_event_in_graph(EventHandle handle, StreamHandle stream_handle) noexcept {
  return stream_call(*device_, SimulatedCall::record_event, stream_handle, [&](Lock&, const auto& stream) -> Status {
    const SimulatedEvent* event = find_event(handle);
    if (event == nullptr || event->device != stream->device) return refuse(Refusal::invalid_handle);
    if (!stream->capture) return refuse(Refusal::illegal_state);
    Operation operation;
    operation.kind = Operation::Kind::record;
    operation.event = handle;
    return capture_node(*stream, std::move(operation));
  });
}

Status SimulatedBackend::begin_capture(StreamHandle handle, CaptureMode mode) noexcept {
  return stream_call(*device_, SimulatedCall::begin_capture, handle, [&](Lock&, const auto& stream) -> Status {
    if (handle == nullptr || handle == legacy_handle) return refuse(Refusal::capture_unsupported);
    return start_capture(stream, mode);
  });
}

Status SimulatedBackend::end_capture(StreamHandle handle, GraphHandle* graph) noexcept {
  Garbage garbage;
  return stream_call(*device_, SimulatedCall::end_capture, handle,
                     [&](Lock&, const auto& stream) -> Status { return finish_capture(stream, graph, garbage); });
}

Status SimulatedBackend::graph_nodes(GraphHandle graph, std::size_t* count) noexcept {
  return call(*device_, SimulatedCall::graph_nodes, [&](Lock&) -> Status {
    const auto found = machine().graphs.find(graph);
    if (found == machine().graphs.end()) return refuse(Refusal::invalid_handle);
    *count = found->second->nodes.size();
    return {};
  });
}

Status SimulatedBackend::instantiate_graph(GraphHandle graph, GraphExecHandle* exec) noexcept {
  return call(*device_, SimulatedCall::instantiate_graph, [&](Lock&) -> Status {
    const auto found = machine().graphs.find(graph);
    if (found == machine().graphs.end()) return refuse(Refusal::invalid_handle);
    if (found->second->capturing) return refuse(Refusal::invalid_value);
    if (forbidden_by_capture()) return refuse(Refusal::capture_unsupported);
    auto made = std::make_unique<GraphExec>();
    made->graph = std::make_shared<const Graph>(*found->second);
    GraphExec* const handle = made.get();
    machine().execs.emplace(handle, std::move(made));
    *exec = handle;
    return {};
  });
}

Status SimulatedBackend::launch_graph(GraphExecHandle exec, StreamHandle handle) noexcept {
  return stream_call(*device_, SimulatedCall::launch_graph, handle, [&](Lock&, const auto& stream) -> Status {
    const auto found = machine().execs.find(exec);
    if (found == machine().execs.end()) return refuse(Refusal::invalid_handle);
    return launch_executable(*found->second, stream);
  });
}

// Both destroys take the graph out of the tables under the lock and let go of it after: a release may run then.

Status SimulatedBackend::destroy_graph(GraphHandle graph) noexcept {
  std::shared_ptr<Graph> gone;
  return call(
      *device_, SimulatedCall::destroy_graph,
      [&](Lock&) -> Status {
        const auto found = machine().graphs.find(graph);
        if (found == machine().graphs.end()) return refuse(Refusal::invalid_handle);
        if (found->second->capturing) return refuse(Refusal::invalid_value);
        gone = std::move(found->second);
        machine().graphs.erase(found);
        return {};
      },
      Lost::unnoticed);
}

Status SimulatedBackend::destroy_graph_exec(GraphExecHandle exec) noexcept {
  std::unique_ptr<GraphExec> gone;
  return call(
      *device_, SimulatedCall::destroy_graph_exec,
      [&](Lock&) -> Status {
        const auto found = machine().execs.find(exec);
        if (found == machine().execs.end()) return refuse(Refusal::invalid_handle);
        gone = std::move(found->second);
        machine().execs.erase(found);
        return {};
      },
      Lost::unnoticed);
}

}  // namespace thole::inline v0_1::detail
