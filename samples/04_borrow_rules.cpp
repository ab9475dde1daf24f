// Borrow rules: any number of readers or one writer, and the device counts too. A mistake is an error, not a race.

#include <fmt/core.h>

#include <gsl/span>
#include <thole/thole.hpp>

template <class F>
void expect_error(const char* attempt, F&& f) {
  try {
    f();
    fmt::print("{}: allowed?!\n", attempt);
  } catch (const thole::Error& error) {
    fmt::print("{}:\n    {}\n", attempt, error.what());
  }
}

int main() try {
  auto device = thole::Device::best();
  auto heap = thole::PinnedHeap(thole::PinnedArena(device, {.bytes = 16 << 20}));
  auto stream = thole::Stream(device);
  auto buf = heap.make_buffer<int>(1000, 1);
  {
    auto writer = buf.borrow_mut();
    const gsl::span<int> head = writer.span().first(3);  // a span is good while its borrow lives
    head[0] = 7;
    expect_error("copy it while somebody writes", [&] { (void)buf.async_to_device(stream); });
    expect_error("read it while somebody writes", [&] { (void)buf.borrow(); });
  }
  auto dev = buf.async_to_device(stream);  // the writer is gone: fine
  auto one = buf.borrow(), two = buf.borrow();
  fmt::print("two readers beside the device: {} and {}\n", one[0], two[999]);
  expect_error("let the device write while somebody reads", [&] { buf.async_from_device(stream, dev); });
  expect_error("fill a buffer that is too small", [&] { heap.make_buffer<int>(10).async_from_device(stream, dev); });
} catch (const thole::Error& error) {
  fmt::print(stderr, "04_borrow_rules: {}\n", error.what());
  return 1;
}
