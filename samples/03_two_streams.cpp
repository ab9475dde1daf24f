// Two streams: many may read one buffer at once, and a stream that is stuck holds its own buffers and nobody else's.

#include <fmt/core.h>

#include <latch>
#include <range/v3/algorithm/equal.hpp>
#include <range/v3/view/iota.hpp>
#include <thole/thole.hpp>

int main() try {
  auto device = thole::Device::best();
  auto heap = thole::PinnedHeap(thole::PinnedArena(device, {.bytes = 64 << 20}));
  auto stuck = thole::Stream(device), free = thole::Stream(device);
  auto gate = std::latch(1);
  stuck.launch_host_function([&gate] { gate.wait(); });  // nothing after this runs on `stuck` until the gate opens

  auto numbers = heap.make_buffer_from(ranges::views::iota(0, 100'000));  // any sized range
  auto on_stuck = numbers.async_to_device(stuck);
  auto on_free = numbers.async_to_device(free);  // both streams read it

  auto back = on_free.async_to_host(free, heap);
  fmt::print("the free stream is done: {}\n", ranges::equal(back.borrow(), ranges::views::iota(0, 100'000)));
  fmt::print("the CPU may read with them, too: numbers[7] is {}\n", numbers.borrow()[7]);
  fmt::print("but writing would have to wait: {}\n", numbers.try_borrow_mut().error().what());

  { auto dropped = std::move(numbers); }  // still read by the stuck stream
  { auto dropped = std::move(back); }     // finished
  heap.collect();
  fmt::print("what is held, by stream, and where it was made:\n{}\n", heap.report().text());

  gate.count_down();
  heap.drain();
  fmt::print("gate open: {} bytes in flight\n", heap.stats().in_flight);
} catch (const thole::Error& error) {
  fmt::print(stderr, "03_two_streams: {}\n", error.what());
  return 1;
}
