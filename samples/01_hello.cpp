// Hello: to the device and back. Only the borrow at the end waits, and for nothing but the copy that it needs.

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <range/v3/algorithm/copy.hpp>
#include <range/v3/numeric/accumulate.hpp>
#include <range/v3/range/conversion.hpp>
#include <range/v3/view/chunk.hpp>
#include <range/v3/view/iota.hpp>
#include <thole/thole.hpp>

int main() try {
  const auto samples = ranges::views::iota(0, 12) | ranges::to<std::vector<float>>();
  const auto n = samples.size();
  const auto use = [](const auto& result) {
    fmt::print("{} floats, sum {}\n", result.size(), ranges::accumulate(result, 0.F));
  };

  // README begin
  auto device = thole::Device::best();  // a GPU if there is one, else the simulated device
  auto arena = thole::PinnedArena(device, {.bytes = 256 << 20});
  auto heap = thole::PinnedHeap(arena);
  auto stream = thole::Stream(device);

  auto buf = heap.make_buffer<float>(n);            // PinnedBuffer<float>, uninitialised
  ranges::copy(samples, buf.borrow_mut().begin());  // a borrow is a gsl::span while it lives
  auto dev = buf.async_to_device(stream);           // DeviceBuffer<float>; returns at once
  auto back = dev.async_to_host(stream, heap);      // PinnedBuffer<float>, being written
  use(back.borrow());                               // waits for that write, and for nothing else
  // README end

  for (auto row : back.borrow() | ranges::views::chunk(4)) fmt::print("{}\n", row);  // a borrow composes with views
  fmt::print("there and back on \"{}\"\n", device.name());
} catch (const thole::Error& error) {
  fmt::print(stderr, "01_hello: {}\n", error.what());
  return 1;
}
