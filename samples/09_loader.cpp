// A loader whose ring is the heap: it waits for a buffer until the device has given one back; and a consumer that gives
// each batch a deadline.

#include <fmt/core.h>

#include <algorithm>
#include <thole/thole.hpp>
#include <vector>

using namespace std::chrono_literals;

int main() try {
  constexpr std::size_t batch = 1 << 20;  // the arena holds four
  auto device = thole::Device::best();
  auto heap = thole::PinnedHeap(thole::PinnedArena(device, {.bytes = 4 * batch}));
  auto stream = thole::Stream(device);
  auto memory = thole::DeviceBuffer<std::byte>(stream, batch);

  for (int i = 0; i != 20; ++i) {
    auto buffer = heap.make_buffer_for<std::byte>(batch, thole::forever);  // waits for the copy of the fourth before it
    std::ranges::fill(buffer.borrow_mut(), std::byte(i));                  // read a file, decode, ...
    buffer.async_to_device(stream, memory);
  }  // dropped in flight: that is how it comes back

  auto result = memory.async_to_host_for(stream, heap, thole::forever);
  if (auto borrow = result.try_borrow_for(10s))
    fmt::print("the last batch: {}\n", int((*borrow)[batch - 1]));
  else
    fmt::print("late: {}\n", borrow.error().what());  // Errc::timed_out; the buffer is as it was, and may be dropped

  if (auto drained = heap.drain_for(10s); !drained) fmt::print("still busy: {}\n", drained.error().what());
} catch (const thole::Error& error) {
  fmt::print(stderr, "09_loader: {}\n", error.what());
  return 1;
}
