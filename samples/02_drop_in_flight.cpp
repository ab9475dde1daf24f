// Drop while in flight: letting go of a buffer returns at once, and its memory stays untouched until the copy is done.

#include <fmt/core.h>

#include <chrono>
#include <latch>
#include <thole/thole.hpp>

int main() try {
  auto device = thole::Device::best();
  auto heap = thole::PinnedHeap(thole::PinnedArena(device, {.bytes = 64 << 20}));
  auto stream = thole::Stream(device);
  auto gate = std::latch(1);
  stream.launch_host_function([&gate] { gate.wait(); });  // the stream is busy with something long

  auto first = heap.make_buffer<int>(1 << 20, 42);
  const void* const address = first.unsynchronized_data();
  auto dev = first.async_to_device(stream);  // cannot start yet

  const auto start = std::chrono::steady_clock::now();
  { auto dropped = std::move(first); }  // does not wait for the stream
  const auto took = std::chrono::steady_clock::now() - start;
  fmt::print("dropped 4 MiB in flight in {} ns; held for the device: {} bytes\n",
             std::chrono::nanoseconds(took).count(), heap.stats().in_flight);

  auto second = heap.make_buffer<int>(1 << 20, -1);  // would ruin the copy if it were the same memory
  fmt::print("a new buffer got {} memory\n", second.unsynchronized_data() == address ? "THE SAME" : "other");

  gate.count_down();
  auto back = dev.async_to_host(stream, heap).borrow();  // the borrow keeps the memory, the buffer may go
  fmt::print("the device read {} and {}: what was there before the drop\n", back[0], back[back.size() - 1]);
  stream.synchronize();
  heap.collect();
  fmt::print("held for the device now: {} bytes\n", heap.stats().in_flight);
} catch (const thole::Error& error) {
  fmt::print(stderr, "02_drop_in_flight: {}\n", error.what());
  return 1;
}
