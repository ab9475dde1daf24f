// Calls that use one piece of device memory at the same time: in the function of one another, or on two threads. Where
// two threads must meet in the middle of a call, a hook of the simulated device brings them together.

#include <atomic>
#include <thread>

#include <thole/use_on.hpp>

#include "../support/rig.hpp"

using namespace support;

namespace {

constexpr std::size_t bytes = 4 * KiB;

}  // namespace

TEST_CASE("while the function of a use of device memory runs, a use that conflicts with it is refused") {
  const Rig rig(under_test());
  const Stream stream(rig.device), other(rig.device);
  DeviceBuffer<std::byte> memory(stream, bytes);
  auto host = rig.heap.make_buffer<std::byte>(bytes, std::byte{1});
  auto exec = capture(other, [&] { host.async_from_device(other, memory.span()); }).instantiate();
  UseList list;
  list.writes(memory.span().subspan(1, 1));
  rig.settle(stream);
  const auto attempts = [&](bool reads_are_allowed) {
    errc_text([&] { host.async_to_device(other, memory.span()); }, Errc::borrowed);
    errc_text_of(list.try_run_on(other, [](NativeStream) {}), Errc::borrowed);
    errc_text_of(try_use_on(other, writes(memory), [](std::byte*, NativeStream) {}), Errc::borrowed);
    if (reads_are_allowed) {
      CHECK(exec.try_launch(other).has_value());
      host.async_from_device(stream, memory.span());
    } else {
      errc_text_of(exec.try_launch(other), Errc::borrowed);
      CHECK(has(errc_text([&] { host.async_from_device(other, memory.span()); }, Errc::borrowed), "device memory"));
      errc_text_of(memory.try_async_to_host(other, rig.heap), Errc::borrowed);
    }
  };
  use_on(stream, writes(memory), [&](std::byte*, NativeStream) { attempts(false); });
  use_on(stream, reads(memory), [&](const std::byte*, NativeStream) { attempts(true); });
  list.run_on(stream, [&](NativeStream) { attempts(false); });
  rig.settle(stream);
  rig.settle(other);
  host.async_to_device(other, memory.span());  // as before
  rig.settle(other);
  CHECK(host.try_borrow_mut().has_value());
}

TEST_CASE("parts of one device buffer may be named apart in one use, to be read and to be written") {
  const Rig rig(under_test());
  const Stream stream(rig.device), other(rig.device);
  DeviceBuffer<std::byte> memory(stream, 4);
  const auto part = [&](std::size_t i) { return memory.span().subspan(i, 1); };
  rig.settle(stream);
  std::size_t runs = 0;
  const auto f = [&](auto...) { ++runs; };
  use_on(stream, reads(part(0)), writes(part(1)), f);
  use_on(stream, writes(part(0)), reads(part(1)), reads(part(2)), writes(part(3)), f);
  use_on(stream, reads(part(0)), reads(part(1)), writes(part(2)), reads(part(3)), f);
  CHECK(runs == 3);
  use_on(other, writes(memory), f);  // and nothing stays held
  CHECK(runs == 4);
}

TEST_CASE("copies that two threads make of one device buffer at one time are ordered one after the other") {
  for (const bool first_reads : {true, false}) {
    const Rig rig;
    const Stream stream(rig.device), other(rig.device);
    DeviceBuffer<std::byte> memory(stream, bytes);
    auto one = rig.heap.make_buffer<std::byte>(bytes, std::byte{1});
    const auto two = rig.heap.make_buffer<std::byte>(bytes, std::byte{2});
    rig.settle(stream);
    std::thread second;
    std::atomic<bool> over{false};
    rig.sim().before_call(SimulatedCall::copy, [&] {
      second = std::thread([&] {
        two.async_to_device(other, memory.span());
        over = true;
      });
      // It waits for this call; without that it would come to its end here, sooner or later.
      for (int i = 0; i != 10'000 && !over; ++i) std::this_thread::yield();
    });
    if (first_reads)
      one.async_from_device(stream, memory.span());
    else
      one.async_to_device(stream, memory.span());
    second.join();
    rig.sim().hold(stream);
    rig.sim().run_all();
    CHECK(rig.sim().pending(other) != 0);
    rig.sim().release(stream);
    rig.sim().run_all();
    CHECK(device_holds(rig, stream, memory, 2));
  }
}

TEST_CASE("a use of parts, to be read and to be written, waits for a copy of another thread's that reads the buffer") {
  const Rig rig;
  const Stream stream(rig.device), other(rig.device);
  DeviceBuffer<std::byte> memory(stream, bytes);
  auto host = rig.heap.make_buffer<std::byte>(bytes);
  rig.settle(stream);
  std::thread second;
  std::atomic<bool> over{false};
  std::atomic<bool> used{false};
  rig.sim().before_call(SimulatedCall::copy, [&] {
    second = std::thread([&] {
      const auto span = memory.span();
      // Its own function, which is still to run, is no reason not to wait.
      used = try_use_on(other, reads(span.subspan(0, 1)), writes(span.subspan(1, 1)), [](auto...) {}).has_value();
      over = true;
    });
    for (int i = 0; i != 10'000 && !over; ++i) std::this_thread::yield();
  });
  host.async_from_device(stream, memory.span());
  second.join();
  CHECK(used);
}
