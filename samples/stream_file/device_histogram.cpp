#include "device_histogram.hpp"

#include <algorithm>
#include <functional>
#include <stdexcept>
#include <string>

#ifdef THOLE_SAMPLE_HAS_KERNEL
#include "../histogram.hpp"
#endif

namespace stream_file {

DeviceHistogram::DeviceHistogram(const thole::StreamRef& stream, const thole::PinnedHeap& heap)
    : stream_(stream),
      heap_(heap),
      way_(way(stream.device())),
      counts_(heap.make_buffer<unsigned long long>(Histogram{}.size(), 0).async_to_device(stream)) {}

DeviceHistogram::Way DeviceHistogram::way(const thole::Device& device) {
  if (device.backend() == thole::Backend::simulated) return Way::function_for_cpu;
#ifdef THOLE_SAMPLE_HAS_KERNEL
  return Way::kernel;
#else
  return Way::returned_copy;
#endif
}

const char* DeviceHistogram::method(const thole::Device& device) {
  switch (way(device)) {
    case Way::kernel:
      return "a kernel on the GPU";
    case Way::function_for_cpu:
      return "a function for the CPU in the stream";
    case Way::returned_copy:
      return "on the CPU, of the copy that came back (built without nvcc)";
  }
  return "";
}

void DeviceHistogram::add(thole::DeviceSpan<const unsigned char> bytes) {
  if (way_ == Way::returned_copy) return;
  thole::launch(
      stream_, thole::reads(bytes), thole::writes(counts_),
      [&]([[maybe_unused]] const unsigned char* data, [[maybe_unused]] unsigned long long* counts,
          [[maybe_unused]] thole::NativeStream native) {
#ifdef THOLE_SAMPLE_HAS_KERNEL
        const char* const wrong = launch_byte_histogram(stream_.device().ordinal(), native, data, bytes.size(), counts);
        if (wrong != nullptr)
          throw std::runtime_error(std::string("the histogram's kernel could not be started: ") + wrong);
#endif
      },
      [](gsl::span<const unsigned char> data, gsl::span<unsigned long long> counts) {
        Histogram found{};
        count_bytes({data.data(), data.size()}, found);
        std::transform(found.begin(), found.end(), counts.begin(), counts.begin(), std::plus<>());
      });
}

void DeviceHistogram::add_returned(Bytes bytes) {
  if (way_ == Way::returned_copy) count_bytes(bytes, returned_);
}

Histogram DeviceHistogram::result() {
  if (way_ == Way::returned_copy) return returned_;
  Histogram result{};
  const auto counts = counts_.async_to_host(stream_, heap_).borrow();
  std::copy(counts.begin(), counts.end(), result.begin());
  return result;
}

}  // namespace stream_file
