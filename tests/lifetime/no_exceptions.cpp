// A program that is built without exceptions: it uses the twins that return a Result. A test of its own, since all of a
// program is built so.

#include <cstdio>
#include <cstdlib>

#include <thole/thole.hpp>

namespace {

using namespace thole;

void check(bool right, const char* what) {
  if (right) return;
  std::fprintf(stderr, "no_exceptions: %s\n", what);
  std::exit(1);
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
  return 0;
}
