#pragma once

#include <thole/thole.hpp>

#include "checks.hpp"
#include "feed.hpp"
#include "plan.hpp"

namespace stream_file {

/// Device memory for the job: for all of it, or a ring that it streams through; and what the device finds in it.
class DeviceSide {
 public:
  /// For all that the feed has, if that is known, is at most `limit` bytes, and the device has so much; else a ring. On
  /// the heap's device; blocks until the memory is there.
  DeviceSide(const thole::PinnedHeap& heap, const Plan& plan, const Feed& feed, std::uint64_t limit);

  bool holds_all() const noexcept { return holds_all_; }
  std::uint64_t bytes() const noexcept { return memory_.size_bytes(); }

  /// Where a lane's next piece goes. A place of the ring comes again only in the same lane, behind its earlier pieces:
  /// the order of the lane's stream keeps them apart.
  thole::DeviceSpan<unsigned char> place(std::size_t lane, std::uint64_t number, const Piece& piece);

  /// The first bytes there, for whoever wants to look at them when the lanes' streams are done.
  thole::DeviceSpan<const unsigned char> front(std::size_t most) const;

  /// Forgets what was found, and gets ready to check so much. Blocks.
  void start_checks(Check check);
  /// Enqueues the look at a piece that will be there when the lane's stream gets there. Does not wait.
  void look_at(std::size_t lane, const thole::StreamRef& stream, thole::DeviceSpan<const unsigned char> bytes,
               std::uint64_t position);
  /// What all lanes found, when their streams are done. Blocks.
  Findings findings();

  /// Bytes of device memory that a job may use: `wanted`, if it is not 0; else, of a simulated device, whose memory is
  /// this machine's own, a moderate part.
  static std::uint64_t limit(std::uint64_t wanted, const thole::Device& device);
  /// How the device checks, for people.
  static const char* method(const thole::Device& device);
  /// Whether it can: on a GPU only where the program was built with nvcc.
  static bool can_check(const thole::Device& device);

 private:
  thole::PinnedBuffer<unsigned long long> host_counters() const;

  thole::PinnedHeap heap_;
  Plan plan_;
  std::size_t slot_;    // bytes of a place in the ring
  std::uint64_t base_;  // where the first byte stands in the job
  thole::Stream stream_;
  bool holds_all_ = false;
  thole::DeviceBuffer<unsigned char> memory_;
  thole::DeviceBuffer<unsigned long long> counters_;
  // The lanes' threads use these alone: a call of a handle that is not const is for one thread at a time.
  thole::Device on_;
  thole::DeviceSpan<unsigned char> all_;
  thole::DeviceSpan<unsigned long long> all_counters_;
};

}  // namespace stream_file
