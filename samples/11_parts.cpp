// Parts of one allocation: four slices on four streams, each a buffer of its own, then one buffer again.

#include <fmt/core.h>

#include <algorithm>
#include <thole/thole.hpp>
#include <vector>

int main() try {
  auto device = thole::Device::best();
  auto heap = thole::PinnedHeap(thole::PinnedArena(device, {.bytes = 64 << 20}));
  auto streams = std::vector<thole::Stream>();
  auto slices = heap.make_buffer<int>(4000).split({1000, 1000, 1000, 1000});

  for (int round = 1; round != 4; ++round)
    for (int i = 0; i != 4; ++i) {
      if (round == 1) streams.emplace_back(device);
      auto& slice = slices[std::size_t(i)];
      std::ranges::fill(slice.borrow_mut(), round * 10 + i);  // waits for this slice's own copy, and no other's
      auto memory = slice.async_to_device(streams[std::size_t(i)]);
      slice.async_from_device(streams[std::size_t(i)], memory);
    }

  auto all = thole::join(std::move(slices));  // neighbours: no copy, no wait
  auto borrow = all.borrow();                 // waits for all four
  fmt::print("{} {} {} {}\n", borrow[0], borrow[1999], borrow[2000], borrow[3999]);

  auto refused = std::move(all).try_split_at(10);
  fmt::print("{}\n", refused.error().what());  // a borrow lives, and nothing has changed
} catch (const thole::Error& error) {
  fmt::print(stderr, "11_parts: {}\n", error.what());
  return 1;
}
