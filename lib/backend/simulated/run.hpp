#pragma once

// How operations run: one stream's in order, on worker threads or on the thread that steps. Each function wants the
// machine's mutex locked, but for shut_down; those with a Lock may unlock it for a while.

#include <cstddef>
#include <cstdint>
#include <string>

#include "backend/simulated/machine.hpp"

namespace thole::inline v0_1::detail::simulated {

/// Where the device finds memory that an operation means; nullptr: a GPU would meet an illegal access. `id` is the
/// Range's, 0: pageable memory.
std::byte* reach(const void* data, std::size_t bytes, std::uint64_t id);
/// The range's own addresses of the device, if it has any, mean nothing any more.
void forget_mapped(const Range& range) noexcept;
/// False where SimulationOptions::watch_registrations shows that other pages lie where some were pinned.
bool same_pages(const void* data, std::size_t bytes);
/// Appends to the stream and makes it run where it runs by itself.
void enqueue(const StreamPtr& stream, Operation operation);
/// Runs the stream's next operation on this thread; `can_go_on()` must hold. False when the device was lost meanwhile.
bool run_one(Lock& lock, const StreamPtr& stream);
/// Puts a stream that runs by itself and can go on where a thread will find it.
void schedule(const StreamPtr& stream);
/// Runs released streams of stepped devices on this thread until none of them can go on.
void run_inline(Lock& lock);
void lose(SimulatedDevice& device, const std::string& because, Garbage& garbage);
/// The legacy default stream and those of threads wait for each other: what comes next in the stream comes after what
/// the other ones have. CUDA: "API synchronization behavior", default stream.
void order_default_streams(const StreamPtr& stream);
/// A point behind all that the streams of the device have been given; nullptr: they are done with it.
std::shared_ptr<Point> point_behind_all(SimulatedDevice& device);
/// The device's end: finishes what can run by itself, joins the workers, drops the rest and what the device pinned.
void shut_down(SimulatedDevice& device);

}  // namespace thole::inline v0_1::detail::simulated
