#pragma once

// Functions on their way through a stream or a graph. A function in a stream runs once; one in a graph runs with each
// launch, as long as the graph and its executables live. Which of the two it is nobody knows for sure where a capture
// begins or ends on another thread in the middle of the call; so both may keep it.

#include <functional>

namespace thole::inline v0_1::detail {

/// One function. Thread safety: any thread may call anything, as long as somebody keeps it.
struct HostFunction;

/// Kept by the stream. Where the device is lost and never runs it, it stays, rather than be freed under a driver that
/// may still start it. Throws std::bad_alloc.
HostFunction* keep_host_function(std::function<void()> function);
/// It is not in a stream: the stream keeps it no longer.
void leave_stream(HostFunction* function) noexcept;
/// A graph keeps it, too, until release_from_graph().
void keep_in_graph(HostFunction* function) noexcept;
/// For DeviceBackend::retain_in_graph.
void release_from_graph(void* function);
/// For DeviceBackend::launch_host_function: runs it. In a stream that was the only time.
void run_host_function(void* function);

}  // namespace thole::inline v0_1::detail
