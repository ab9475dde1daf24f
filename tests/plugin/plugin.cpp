// What a plug-in does: its host knows nothing of thole and loads it when it likes, on any thread.

#include <algorithm>
#include <cstddef>

#include <thole/thole.hpp>

namespace {

int round_trip() {
  const auto device = thole::Device::simulated();
  const thole::PinnedArena arena(device, {.bytes = std::size_t{4} << 20});
  const thole::PinnedHeap heap(arena);
  const thole::Stream stream(device);
  auto there = heap.make_buffer<int>(1000, 7).async_to_device(stream);
  const auto back = there.async_to_host(stream, heap);
  const auto borrow = back.borrow();
  return std::ranges::all_of(borrow, [](int value) { return value == 7; }) ? 0 : 1;
}

}  // namespace

/// 0 where a buffer went to a device and came back.
extern "C" THOLE_EXPORT int use_thole() try { return round_trip(); } catch (...) {
  return 2;
}
