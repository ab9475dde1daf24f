// A small server: each request is a coroutine that waits for the device without a thread of its own. It goes on, on a
// thread of thole's, when its copies are done.

#include <fmt/core.h>

#include <latch>
#include <thole/coroutine.hpp>
#include <thole/thole.hpp>

struct Request {  // a coroutine that runs by itself
  struct promise_type {
    Request get_return_object() { return {}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() { std::terminate(); }
  };
};

Request serve(int number, thole::StreamRef stream, const thole::PinnedHeap& heap, std::latch& done) {
  auto memory = heap.make_buffer<int>(1000, number).async_to_device(stream);
  auto output = memory.async_to_host(stream, heap);
  co_await stream.record();  // the thread goes on to the next request
  if (number % 25 == 0) fmt::print("request {} has {}\n", number, output.borrow()[999]);
  done.count_down();
}

int main() try {
  auto device = thole::Device::best();
  auto heap = thole::PinnedHeap(thole::PinnedArena(device, {.bytes = 64 << 20}));
  auto stream = thole::Stream(device);
  auto done = std::latch(100);
  for (int i = 0; i != 100; ++i) serve(i, stream, heap, done);
  done.wait();
} catch (const thole::Error& error) {
  fmt::print(stderr, "10_coroutines: {}\n", error.what());
  return 1;
}
