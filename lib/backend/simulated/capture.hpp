#pragma once

// Stream capture, after CUDA's rules ("CUDA Graphs", creating a graph using stream capture). Each function but the
// first wants the machine's mutex locked.

#include "backend/simulated/machine.hpp"

namespace thole::inline v0_1::detail::simulated {

/// The calling thread's capture mode.
CaptureMode& thread_capture_mode() noexcept;
/// For a call that is unsafe in capture: invalidates the captures that forbid it and says whether there are any.
bool forbidden_by_capture() noexcept;
void invalidate(Capture& capture) noexcept;
/// Ends the capture without a graph.
void discard(const std::shared_ptr<Capture>& capture, Garbage& garbage);
/// Makes the operation a node of the capture that the stream takes part in.
Status capture_node(SimulatedStream& stream, Operation operation);
Status capture_record(SimulatedStream& stream, SimulatedEvent& event);
Status capture_wait(const StreamPtr& stream, SimulatedEvent& event);
Status start_capture(const StreamPtr& stream, CaptureMode mode);
Status finish_capture(const StreamPtr& stream, GraphHandle* graph, Garbage& garbage);

}  // namespace thole::inline v0_1::detail::simulated
