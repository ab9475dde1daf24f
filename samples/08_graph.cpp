// A graph as a handle: captured once, launched for each frame. A launch is a use of all that was captured, so that a
// borrow waits for it, and for nothing else.

#include <fmt/core.h>

#include <algorithm>
#include <thole/thole.hpp>

int main() try {
  auto device = thole::Device::best();
  auto heap = thole::PinnedHeap(thole::PinnedArena(device, {.bytes = 64 << 20}));
  auto stream = thole::Stream(device), side = thole::Stream(device, {.priority = -1});
  auto in = heap.make_buffer<int>(1000), out = heap.make_buffer<int>(1000), copy = heap.make_buffer<int>(1000);
  auto memory = thole::DeviceBuffer<int>(stream, 1000);

  auto graph = thole::capture(stream, [&] {
    in.async_to_device(stream, memory);
    side.wait(stream.record());  // fork: the two copies back run beside each other
    out.async_from_device(stream, memory);
    copy.async_from_device(side, memory);
    stream.wait(side.record());  // and join
  });
  auto exec = graph.instantiate();

  for (int frame = 1; frame != 4; ++frame) {
    std::ranges::fill(in.borrow_mut(), frame);  // waits until the launch before has read it
    auto begin = stream.record({.timing = true});
    exec.launch(stream);
    auto end = stream.record({.timing = true});
    fmt::print("frame {}: {} and {}\n", frame, out.borrow()[999], copy.borrow()[0]);  // waits for this launch
    end.synchronize();
    fmt::print("  in {} ns\n", end.elapsed_since(begin).count());
  }
} catch (const thole::Error& error) {
  fmt::print(stderr, "08_graph: {}\n", error.what());
  return 1;
}
