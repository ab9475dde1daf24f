// Streams fork and join in a capture: record() and wait() there are those of the capture. One case counts waits, which
// the simulated device does.

#include <future>
#include <thread>
#include <vector>

#include <gsl/util>

#include <thole/graph.hpp>

#include "../support/rig.hpp"

using namespace support;

namespace {

constexpr std::size_t bytes = 4 * KiB;
void* const per_thread_stream = reinterpret_cast<void*>(2);  // cudaStreamPerThread

/// Each launch reads the buffer to the device before it writes 99s into it.
void check_read_before_written(const Rig& rig, GraphExec& exec, const Stream& stream, PinnedBuffer<std::byte>& buffer,
                               DeviceBuffer<std::byte>& read) {
  for (int value = 1; value != 4; ++value) {
    fill(buffer, value);
    exec.launch(stream);
    rig.settle(stream);
    CHECK(device_holds(rig, stream, read, value));
    CHECK(all_are(buffer, 99));
  }
}

}  // namespace

TEST_CASE("streams that wait for an event of a capture take part in it, and are joined again") {
  for (std::uint64_t seed = 0; seed != 20; ++seed) {
    const Rig rig(under_test(seed));
    const Stream stream(rig.device), left(rig.device), right(rig.device);
    int before = 0, by_left = 0, by_right = 0, after = 0;
    auto exec = capture(stream, [&] {
                  stream.launch_host_function([&] { ++before; });
                  const Event fork = stream.record();
                  left.wait(fork);
                  right.wait(fork);
                  CHECK(left.capturing());
                  left.launch_host_function([&] { by_left = before; });
                  right.launch_host_function([&] { by_right = before; });
                  stream.wait(left.record());
                  stream.wait(right.record());
                  stream.launch_host_function([&] { after = std::min(by_left, by_right); });
                }).instantiate();
    CHECK(!left.capturing());
    for (int launches = 1; launches != 4; ++launches) {
      exec.launch(stream);
      rig.settle(stream);
      CHECK(after == launches);
    }
    left.launch_host_function([] {});  // an ordinary stream again
    rig.settle(left);
    left.synchronize();
  }
}

TEST_CASE("a stream that was forked and joined may be dropped before the capture ends, which goes on") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  DeviceBuffer<std::byte> target(stream, bytes);
  const auto buffer = rig.heap.make_buffer<std::byte>(bytes, std::byte{6});
  rig.settle(stream);
  const auto streams = rig.simulated() ? rig.calls(SimulatedCall::destroy_stream) : 0;
  auto exec = capture(stream, [&] {
                const Stream branch(rig.device);
                branch.wait(stream.record());
                buffer.async_to_device(branch, target.span());
                stream.wait(branch.record());
              }).instantiate();
  CHECK(!Device(rig.device).take_error());
  exec.launch(stream);
  rig.settle(stream);
  CHECK(device_holds(rig, stream, target, 6));
  if (rig.simulated()) until([&] { return rig.calls(SimulatedCall::destroy_stream) == streams + 1; });
}

TEST_CASE("what is copied in a forked stream is a use of each launch, too") {
  const Rig rig(under_test());
  const Stream stream(rig.device), side(rig.device);
  DeviceBuffer<std::byte> memory(stream, bytes);
  auto in = rig.heap.make_buffer<std::byte>(bytes, std::byte{1});
  auto out = rig.heap.make_buffer<std::byte>(bytes);
  rig.settle(stream);
  auto exec = capture(stream, [&] {
                side.wait(stream.record());
                in.async_to_device(side, memory.span());
                stream.wait(side.record());
                out.async_from_device(stream, memory.span());
              }).instantiate();
  for (int value = 2; value != 5; ++value) {
    fill(in, value);
    Gate gate(rig, stream);
    exec.launch(stream);
    errc_text_of(in.try_borrow_mut(), Errc::in_flight);
    errc_text_of(out.try_borrow(), Errc::in_flight);
    gate.open();
    rig.settle(stream);
    CHECK(all_are(out, value));
  }
}

TEST_CASE("a stream that is forked and never joined makes the capture fail, with a text that says so") {
  const Rig rig(under_test());
  const Stream stream(rig.device), side(rig.device);
  const auto text = errc_text(
      [&] {
        (void)capture(stream, [&] {
          side.wait(stream.record());
          side.launch_host_function([] {});
        });
      },
      Errc::capturing);
  CHECK(has(text, "joined"));
  CHECK(!stream.capturing());
  CHECK(!side.capturing());
}

TEST_CASE("an event of a capture answers no question, during it or afterwards, and disturbs nothing") {
  const Rig rig(under_test());
  const Stream stream(rig.device), side(rig.device);
  std::vector<Event> events;
  (void)capture(stream, [&] {
    events.push_back(stream.record());
    errc_text_of(events[0].try_ready(), Errc::capturing);
    errc_text([&] { events[0].synchronize(); }, Errc::capturing);
    errc_text_of(events[0].wait_for(forever), Errc::capturing);
    errc_text_of(stream.try_wait(side.record()), Errc::capturing);  // of outside
    { const Event dropped = stream.record(); }
  });
  errc_text_of(events[0].try_ready(), Errc::capturing);
  CHECK(has(errc_text_of(side.try_wait(events[0]), Errc::capturing), "ended"));
  (void)capture(stream, [&] { errc_text_of(stream.try_wait(events[0]), Errc::capturing); });
  const Stream other(rig.device);
  (void)capture(stream, [&] {
    const Event here = stream.record();
    (void)capture(other, [&] { CHECK(has(errc_text_of(other.try_wait(here), Errc::capturing), "two")); });
  });
}

TEST_CASE("what a stream had in flight before it was forked into a capture can still be waited for") {
  const Rig rig(under_test());
  const Stream stream(rig.device), side(rig.device);
  DeviceBuffer<std::byte> memory(side, bytes);
  auto buffer = rig.heap.make_buffer<std::byte>(bytes);
  Gate gate(rig, side);
  buffer.async_to_device(side, memory.span());
  (void)capture(stream, [&] {
    side.wait(stream.record());
    errc_text_of(buffer.try_borrow_mut(), Errc::in_flight);
    gate.open();
    until([&] { return buffer.try_borrow_mut().has_value(); });
    stream.wait(side.record());
  });
}

TEST_CASE("streams of one capture that use the same memory are ordered, as outside of a capture") {
  for (std::uint64_t seed = 0; seed != 20; ++seed) {
    const Rig rig(under_test(seed));
    const Stream stream(rig.device), left(rig.device), right(rig.device);
    DeviceBuffer<std::byte> source(stream, bytes), target(stream, bytes);
    auto in = rig.heap.make_buffer<std::byte>(bytes, std::byte{0});
    auto between = rig.heap.make_buffer<std::byte>(bytes, std::byte{0});
    rig.settle(stream);
    auto exec = capture(stream, [&] {
                  const Event fork = stream.record();
                  left.wait(fork);
                  right.wait(fork);
                  in.async_to_device(left, source.span());          // written here
                  between.async_from_device(right, source.span());  // read there, of the device's memory,
                  between.async_to_device(left, target.span());     // and back, of the host's
                  between.async_to_device(right, source.span());    // two read it,
                  between.async_from_device(left, source.span());   // before it is written again
                  stream.wait(left.record());
                  stream.wait(right.record());
                }).instantiate();
    for (int value = 1; value != 4; ++value) {
      fill(in, value);
      exec.launch(stream);
      rig.settle(stream);
      CHECK(device_holds(rig, stream, target, value));
      CHECK(all_are(between, value));
    }
  }
}

TEST_CASE("what one stream of a capture reads another one writes afterwards, without the program's joining them") {
  for (std::uint64_t seed = 0; seed != 20; ++seed) {
    const Rig rig(under_test(seed));
    const Stream stream(rig.device), left(rig.device), right(rig.device);
    DeviceBuffer<std::byte> read(stream, bytes);
    const auto written = rig.heap.make_buffer<std::byte>(bytes, std::byte{99}).async_to_device(stream);
    auto buffer = rig.heap.make_buffer<std::byte>(bytes, std::byte{0});
    rig.settle(stream);
    auto exec = capture(stream, [&] {
                  const Event fork = stream.record();
                  left.wait(fork);
                  right.wait(fork);
                  buffer.async_to_device(left, read.span());
                  buffer.async_from_device(right, written.span());
                  stream.wait(left.record());
                  stream.wait(right.record());
                }).instantiate();
    check_read_before_written(rig, exec, stream, buffer, read);
  }
}

TEST_CASE("who comes after a use that was refused in a capture comes after what that one had to wait for") {
  const Rig rig(under_test());
  const Stream stream(rig.device), left(rig.device), right(rig.device);
  DeviceBuffer<std::byte> read(stream, bytes), written(stream, bytes);
  auto buffer = rig.heap.make_buffer<std::byte>(bytes, std::byte{0});
  rig.settle(stream);
  std::promise<void> joined, over;
  std::jthread other;  // which ends after what it waits for
  const auto ended = gsl::finally([&] { over.set_value(); });
  (void)capture(stream, [&] {
    const Event fork = stream.record();
    left.wait(fork);
    right.wait(fork);
    other = std::jthread([&] {  // whose per-thread default stream nobody else can make another one wait for
      const auto theirs = detail::unwrap(detail::stream_from_native(rig.device, per_thread_stream));
      theirs.wait(fork);
      buffer.async_to_device(theirs, read.span());
      stream.wait(theirs.record());
      joined.set_value();
      over.get_future().wait();
    });
    joined.get_future().wait();
    for (const Stream* each : {&left, &right, &left})
      errc_text([&] { buffer.async_from_device(*each, written.span()); }, Errc::capturing);
    stream.wait(left.record());
    stream.wait(right.record());
  });
}

TEST_CASE("the same, where an event was refused") {
  for (std::uint64_t seed = 0; seed != 20; ++seed) {
    const Rig rig(stepped(seed));
    const Stream stream(rig.device), left(rig.device), right(rig.device);
    DeviceBuffer<std::byte> read(stream, bytes);
    const auto written = rig.heap.make_buffer<std::byte>(bytes, std::byte{99}).async_to_device(stream);
    auto buffer = rig.heap.make_buffer<std::byte>(bytes, std::byte{0});
    rig.settle(stream);
    auto exec = capture(stream, [&] {
                  const Event fork = stream.record();
                  left.wait(fork);
                  right.wait(fork);
                  buffer.async_to_device(left, read.span());
                  rig.sim().fail_call(SimulatedCall::record_event, 1);
                  errc_text([&] { buffer.async_from_device(right, written.span()); }, Errc::device_error);
                  buffer.async_from_device(stream, written.span());
                  stream.wait(left.record());
                  stream.wait(right.record());
                }).instantiate();
    check_read_before_written(rig, exec, stream, buffer, read);
  }
}

TEST_CASE("streams of one capture that only read the same memory are not made to wait for each other") {
  const Rig rig;
  const Stream stream(rig.device), left(rig.device), right(rig.device);
  DeviceBuffer<std::byte> one(stream, bytes), other(stream, bytes);
  const auto in = rig.heap.make_buffer<std::byte>(bytes, std::byte{1});
  rig.settle(stream);
  (void)capture(stream, [&] {
    const Event fork = stream.record();
    left.wait(fork);
    right.wait(fork);
    const auto waits = rig.calls(SimulatedCall::wait_event);
    in.async_to_device(left, one.span());
    in.async_to_device(right, other.span());
    in.async_to_device(left, one.span());
    CHECK(rig.calls(SimulatedCall::wait_event) == waits);
    stream.wait(left.record());
    stream.wait(right.record());
  });
}
