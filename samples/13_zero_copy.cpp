// A kernel that reads and writes pinned memory itself, without a copy: worth it for what is touched once. The rules are
// those of any use: the buffers may be dropped at once, and a borrow waits for the kernel.

#include <fmt/core.h>

#include <stdexcept>
#include <thole/thole.hpp>

#include "add.hpp"

int main() try {
  auto device = thole::Device::best();
  auto heap = thole::PinnedHeap(thole::PinnedArena(device, {.bytes = 64 << 20}));
  auto stream = thole::Stream(device);
  auto a = heap.make_buffer<int>(1000, 40), b = heap.make_buffer<int>(1000, 2), sum = heap.make_buffer<int>(1000);

  thole::launch(
      stream, thole::reads(a), thole::reads(b), thole::writes(sum),
      [&](const int* x, const int* y, int* z, thole::NativeStream native) {  // good on the GPU, whatever its addresses
        if (const char* wrong = launch_add(device.ordinal(), native, x, y, z, 1000)) throw std::runtime_error(wrong);
      },
      [](gsl::span<const int> x, gsl::span<const int> y, gsl::span<int> z) {  // the same on the simulated device
        for (std::size_t i = 0; i != z.size(); ++i) z[i] = x[i] + y[i];
      });

  a = {};                                          // dropped while the kernel reads it
  fmt::print("40 + 2 = {}\n", sum.borrow()[999]);  // waits for the kernel
} catch (const std::exception& error) {
  fmt::print(stderr, "13_zero_copy: {}\n", error.what());
  return 1;
}
