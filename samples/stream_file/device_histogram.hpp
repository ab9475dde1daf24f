#pragma once

#include <thole/thole.hpp>

#include "checks.hpp"

namespace stream_file {

/// Counts byte values on the device, in the order of one stream: a kernel on a GPU, a host function of the stream on
/// the simulated device. Where this program was built without nvcc a GPU cannot count; then the copies that come back
/// are counted on the CPU, and `method()` says so.
class DeviceHistogram {
 public:
  DeviceHistogram(const thole::StreamRef& stream, const thole::PinnedHeap& heap);

  /// Enqueues the counting of what `bytes` will hold when the stream gets there. Does not wait.
  void add(thole::DeviceSpan<const unsigned char> bytes);
  /// The same bytes again, when they are back on the host.
  void add_returned(Bytes bytes);
  /// Waits for all counting.
  Histogram result();
  /// How `device` counts, for people.
  static const char* method(const thole::Device& device);

 private:
  enum class Way { kernel, function_for_cpu, returned_copy };
  static Way way(const thole::Device& device);

  thole::StreamRef stream_;
  thole::PinnedHeap heap_;
  Way way_;
  thole::DeviceBuffer<unsigned long long> counts_;
  Histogram returned_{};
};

}  // namespace stream_file
