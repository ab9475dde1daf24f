#pragma once

// Functions on their way through a stream. A device that is lost never runs them: then they stay here, rather than be
// freed under a driver that may still start one.

#include <functional>

namespace thole::inline v0_1::detail {

/// Keeps the function until run_host_function(), and returns the argument for it. Throws std::bad_alloc.
void* keep_host_function(std::function<void()> function);
/// The function will not run: the stream has refused it.
void drop_host_function(void* kept) noexcept;
/// For DeviceBackend::launch_host_function: runs the function once and frees it.
void run_host_function(void* kept);
/// For a function that a graph owns and runs many times, and lets go of.
void run_function_of_graph(const std::function<void()>& function);
void delete_function_of_graph(void* function) noexcept;

}  // namespace thole::inline v0_1::detail
