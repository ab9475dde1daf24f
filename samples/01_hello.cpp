// Hello: to the device and back. Only the borrow at the end waits, and for nothing but the copy that it needs.

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>
#include <ranges>
#include <thole/thole.hpp>
#include <vector>

int main() try {
  const std::size_t n = 12;
  std::vector<float> samples(n);
  std::iota(samples.begin(), samples.end(), 0.F);
  const auto use = [](const auto& result) {
    fmt::print("{} floats, sum {}\n", result.size(), std::accumulate(result.begin(), result.end(), 0.F));
  };

  // README begin
  auto device = thole::Device::best();  // a GPU if there is one, else the simulated device
  auto arena = thole::PinnedArena(device, {.bytes = 256 << 20});
  auto heap = thole::PinnedHeap(arena);
  auto stream = thole::Stream(device);

  auto buf = heap.make_buffer<float>(n);                 // PinnedBuffer<float>, uninitialised
  std::ranges::copy(samples, buf.borrow_mut().begin());  // a borrow is a gsl::span while it lives
  auto dev = buf.async_to_device(stream);                // DeviceBuffer<float>; returns at once
  auto back = dev.async_to_host(stream, heap);           // PinnedBuffer<float>, being written
  use(back.borrow());                                    // waits for that write, and for nothing else
  // README end

  for (const float twice :
       back.borrow() | std::views::transform([](float x) { return 2 * x; }))  // it composes with views
    fmt::print("{} ", twice);
  fmt::print("\n");
  fmt::print("there and back on \"{}\"\n", device.name());
} catch (const thole::Error& error) {
  fmt::print(stderr, "01_hello: {}\n", error.what());
  return 1;
}
