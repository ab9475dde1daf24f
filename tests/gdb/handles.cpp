// Handles in each state, for gdb to show at the calls of look().

#include <numeric>
#include <optional>
#include <thole/thole.hpp>

extern "C" [[gnu::noinline]] void look() { asm volatile(""); }

int main() {
  const auto device = thole::Device::simulated({.stepped = true});
  const thole::PinnedArena arena(device, {.bytes = std::size_t{1} << 20});
  const thole::PinnedHeap heap(arena, {.alignment = 256});
  const thole::PinnedHeap same = heap;
  const thole::Stream stream(device);
  auto buffer = heap.make_buffer<int>(4);
  {
    auto writer = buffer.borrow_mut();
    std::iota(writer.begin(), writer.end(), 10);
    look();  // writer
  }
  const auto one = buffer.borrow();
  std::optional two = buffer.borrow();
  const auto there = buffer.async_to_device(stream);
  const thole::StreamRef view = stream;
  look();  // one, two, the stream
  two.reset();
  const auto moved = std::move(buffer);
  const thole::PinnedBuffer<double> empty;
  look();  // moved, empty
  device.simulation().run_all();
  return 0;
}
