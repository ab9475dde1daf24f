// Work that uses several buffers: one call checks the rules for all, orders the work behind all that it must come
// after, on whatever streams, and records one use of all. (A function on the host stands in for a kernel: it runs in
// the stream.)

#include <fmt/core.h>

#include <algorithm>
#include <thole/thole.hpp>
#include <vector>

int main() try {
  auto device = thole::Device::best();
  auto heap = thole::PinnedHeap(thole::PinnedArena(device, {.bytes = 64 << 20}));
  auto stream = thole::Stream(device), other = thole::Stream(device);

  auto a = heap.make_buffer<int>(1000, 40), b = heap.make_buffer<int>(1000, 2), sum = heap.make_buffer<int>(1000);
  thole::use_on(
      stream, thole::reads(a), thole::reads(b), thole::writes(sum),
      [&](const int* x, const int* y, int* z, thole::NativeStream) {  // kernel<<<8, 128, 0, native>>>(x, y, z)
        stream.launch_host_function([=] { std::transform(x, x + 1000, y, z, std::plus()); });
      });
  fmt::print("40 + 2 = {}\n", sum.borrow()[999]);  // waits for that work and for nothing else

  fmt::print("{}\n", thole::try_use_on(stream, thole::reads(a), thole::writes(a), [](auto...) {}).error().what());

  auto pages = std::vector<thole::DeviceBuffer<int>>();  // as many as there are: a list, at run time
  auto uses = thole::UseList();
  for (int page = 0; page != 100; ++page) uses.reads(pages.emplace_back(a.async_to_device(page % 2 ? stream : other)));
  auto best = heap.make_buffer<int>(1);
  uses.writes(best);
  uses.run_on(stream, [&](thole::NativeStream) {  // search<<<..., native>>>(...)
    stream.launch_host_function([found = best.unsynchronized_data()] { *found = 7; });
  });
  pages.clear();  // freed behind the work; dropping never waits, and no stream waits for another
  fmt::print("found {} in {} pages\n", best.borrow()[0], uses.size() - 1);
} catch (const thole::Error& error) {
  fmt::print(stderr, "12_several_buffers: {}\n", error.what());
  return 1;
}
