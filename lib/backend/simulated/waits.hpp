#pragma once

// Callers that wait for streams and for memory. Each function wants the machine's mutex locked; those with a Lock
// unlock it while they wait.

#include <cstdint>

#include "backend/simulated/machine.hpp"

namespace thole::inline v0_1::detail::simulated {

/// Somebody wants so many operations of the stream to complete, or the point to be reached: late mode must not keep
/// them, nor what they wait for in other streams.
void demand(SimulatedStream& stream, std::uint64_t completed);
void demand(const Point& point);
/// Everything that is enqueued on any device is wanted.
void demand_all();
/// Blocks the caller until the stream has completed so many operations. False when its device was lost.
bool wait_for_stream(Lock& lock, const StreamPtr& stream, std::uint64_t completed);
/// Blocks the caller while the stream's queue is full. False when its device was lost.
bool wait_for_room(Lock& lock, const StreamPtr& stream);
/// What CUDA does when memory is unpinned: waits until no device that runs by itself has anything to do.
void wait_for_running_work(Lock& lock, SimulatedDevice& device);
/// CUDA's locks hold calls up on every thread: most of them while somebody unpins, in wait_for_running_work, and some
/// while somebody waits for room in a queue of the device, in wait_for_room. A device that was lost holds nobody up.
void wait_for_driver_locks(Lock& lock, SimulatedDevice& device, bool unpinning, bool full_queues);
/// Waits until no thread is in the middle of a copy that touches the range.
void wait_while_touched(Lock& lock, const Range& range);

}  // namespace thole::inline v0_1::detail::simulated
