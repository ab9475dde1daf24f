#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thole/thole.hpp>

#include "checks.hpp"
#include "device_side.hpp"
#include "feed.hpp"
#include "log.hpp"
#include "output.hpp"
#include "plan.hpp"

namespace stream_file {

/// What a job did and found.
struct Result {
  std::uint64_t bytes = 0;
  std::uint64_t pieces = 0;
  std::uint64_t copies = 0;  ///< Between host and device, both ways.
  double seconds = 0;
  Findings on_cpu, on_device;
  Findings back;  ///< Of what came back, on a round trip: the hashes.

  double gigabytes_per_second() const { return seconds > 0 ? static_cast<double>(bytes) / seconds / 1e9 : 0; }
  void add(const Result& lane);
};

/// One run: what its lanes share.
struct Job {
  Feed& feed;
  const thole::PinnedHeap& heap;
  DeviceSide& device;
  const Plan& plan;
  OutputFile* output = nullptr;  ///< Gets what came back, on a round trip.
  Log* log = nullptr;
  std::atomic<std::uint64_t> bytes{0};  ///< Handed to the device so far.
};

/// Runs the job with a thread for each lane, and returns when the device is done. `tick` is called meanwhile, ten times
/// a second, on this thread. What goes wrong in a lane ends the others, and is thrown when they have ended. Checks what
/// was found: throws `std::runtime_error`.
Result run(Job& job, const std::function<void()>& tick);

/// One lane of it, on its own thread, in its own stream. Both return when the stream is done.
Result load_lane(Job& job, std::size_t lane, const thole::Stream& stream);
Result round_trip_lane(Job& job, std::size_t lane, const thole::Stream& stream);

/// A buffer of the window: waits where all of them are in use.
thole::PinnedBuffer<unsigned char> take_buffer(Job& job, std::size_t lane);
/// Notes in the log and in the trace, where there are such, when the copy that was enqueued last is done.
void note_copy(Job& job, std::size_t lane, const thole::StreamRef& stream, Doing doing, std::uint64_t bytes);

}  // namespace stream_file
