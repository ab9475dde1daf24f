// A program that is built without exceptions: it uses the twins that return a Result. A test of its own, since all of a
// program is built so.

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <utility>

#include <vector>

#include <thole/coroutine.hpp>
#include <thole/graph.hpp>
#include <thole/launch.hpp>
#include <thole/thole.hpp>

namespace {

using namespace thole;

void check(bool right, const char* what) {
  if (right) return;
  std::fprintf(stderr, "no_exceptions: %s\n", what);
  std::exit(1);
}

/// Runs at once, and ends by itself.
struct Task {
  struct promise_type {
    Task get_return_object() { return {}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() {}
  };
};

Task wait_for_end(StreamRef stream, std::atomic<bool>& ended) {
  co_await stream.record();
  ended = true;
}

constexpr auto a_minute = std::chrono::seconds(60);

void graphs(const Stream& stream, const PinnedHeap& heap) {
  auto in = heap.try_make_buffer<int>(4, 1), out = heap.try_make_buffer<int>(4, 0);
  auto memory = DeviceBuffer<int>::try_make(stream, 4);
  check(in && out && memory, "buffers for a graph");
  auto graph =
      try_capture(stream,
                  [&] {
                    check(in->try_async_to_device(stream, memory->span()).has_value(), "a copy in a capture");
                    check(out->try_async_from_device(stream, memory->span()).has_value(), "a copy back in a capture");
                  },
                  {.completion = each_write});
  check(graph.has_value(), "try_capture");
  auto exec = graph->try_instantiate();
  check(exec && exec->try_launch(stream).has_value(), "try_instantiate and try_launch");
  check(out->try_borrow_for(a_minute).value()[3] == 1, "what the graph wrote");
  check(try_launch(exec->native(), stream, reads(*in), writes(*out)).has_value(), "try_launch of a raw executable");
  check(stream.synchronize_for(a_minute).has_value(), "synchronize_for");
}

void kernels(const Stream& stream, const PinnedHeap& heap) {
  auto a = heap.try_make_buffer_for<int>(4, forever);
  check(a.has_value(), "try_make_buffer_for");
  if (stream.device().backend() == Backend::simulated) {
    const auto set = [](gsl::span<int> all) { all[3] = 7; };
    check(try_launch(
              stream, writes(*a), [](int*, NativeStream) {}, set)
              .has_value(),
          "try_launch of a kernel");
    check(a->try_borrow_for(a_minute).value()[3] == 7, "what the kernel wrote");
  }
  const auto returned = a->try_use_on(stream, Access::device_reads, [](const int*, NativeStream) { return 5; });
  check(returned && *returned == 5, "try_use_on of one buffer");
}

void events(const Stream& stream, const PinnedHeap& heap) {
  const auto first = stream.try_record({.timing = true}), second = stream.try_record({.timing = true});
  check(first && second, "try_record");
  std::atomic<bool> told{false}, ended{false};
  check(second->try_on_ready([&](Result<void>) { told = true; }).has_value(), "try_on_ready");
  wait_for_end(stream, ended);
  check(stream.try_wait(*second).has_value() && stream.synchronize_for(a_minute).has_value(), "try_wait");
  check(second->try_elapsed_since(*first).has_value(), "try_elapsed_since");
  while (!told || !ended) std::this_thread::yield();
  check(heap.drain_for(a_minute).has_value(), "drain_for");
}

void parts(const Stream& stream, const PinnedHeap& heap) {
  auto whole = heap.try_make_buffer<int>(4, 3);
  auto two = std::move(*whole).try_split_at(1);
  check(two.has_value(), "try_split_at");
  std::vector<PinnedBuffer<int>> both;
  both.push_back(std::move(two->first));
  both.push_back(std::move(two->second));
  auto joined = try_join(std::move(both));
  check(joined.has_value(), "try_join");
  auto three = std::move(*joined).try_split(std::vector<std::size_t>{1, 1, 2});
  check(three.has_value(), "try_split");
  auto there = three->back().try_async_to_device(stream);
  check(there.has_value(), "try_async_to_device");
  auto back = there->try_async_to_host_for(stream, heap, a_minute);
  check(back && back->wait_for(a_minute).has_value() && back->try_borrow_mut_for(a_minute).value()[1] == 3,
        "a round trip");
}

}  // namespace

int main() {
  const Device device = Device::best();
  const PinnedHeap heap(PinnedArena(device, {.bytes = 1 << 20}));
  const auto stream = Stream::try_make(device);
  check(stream.has_value(), "no stream");
  auto a = heap.try_make_buffer<int>(4, 1), b = heap.try_make_buffer<int>(4);
  check(a && b, "no buffers");
  const auto sum = try_use_on(*stream, reads(*a), writes(*b), [](const int*, int*, NativeStream) { return 3; });
  check(sum && *sum == 3, "try_use_on of two buffers");
  UseList uses;
  uses.reads(*a);
  uses.writes(*b);
  check(uses.try_run_on(*stream, [](NativeStream) {}).has_value(), "UseList::try_run_on");
  const auto refused = try_use_on(*stream, reads(*a), writes(*a), [](const int*, int*, NativeStream) {});
  check(!refused && refused.error().errc() == Errc::invalid_argument, "an error that is returned");
  bool ran = false;  // seen when the event behind it is done
  check(stream->try_launch_host_function([&ran] { ran = true; }).has_value(), "try_launch_host_function");
  check(!stream->try_launch_host_function(nullptr).has_value(), "no function");
  const auto end = stream->try_record();
  check(end && end->wait_for(std::chrono::seconds(60)).has_value(), "the end of the stream");
  check(ran, "the host function");
  check(a->try_borrow_mut().has_value() && b->try_borrow().has_value(), "borrows");
  graphs(*stream, heap);
  kernels(*stream, heap);
  events(*stream, heap);
  parts(*stream, heap);
  return 0;
}
