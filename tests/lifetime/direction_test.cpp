// Rule 3: reads and writes by the device; a borrow waits for the precise use; streams are ordered by the device. That a
// wait is for the one use and not for what is right behind it is seen by steps, which the simulated device has.

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "../support/rig.hpp"

using namespace support;

namespace {

using Bytes = PinnedBuffer<std::byte>;

/// Two streams, device memory that holds 9, and a buffer that holds 1.
struct Scene {
  explicit Scene(const Rig& rig)
      : a(rig.device),
        b(rig.device),
        memory(a, 4 * KiB),
        buffer(rig.heap.make_buffer<std::byte>(4 * KiB, std::byte{9})) {
    buffer.async_to_device(a, memory.span());
    rig.settle(a);
    fill(buffer, 1);
  }
  Stream a, b;
  DeviceBuffer<std::byte> memory;
  Bytes buffer;
};

}  // namespace

TEST_CASE("while the device reads, the CPU reads too; writing would wait") {
  const Rig rig(under_test());
  Scene scene(rig);
  Gate gate(rig, scene.b);
  scene.buffer.async_to_device(scene.b, scene.memory.span());
  CHECK(scene.buffer.busy());
  CHECK(all_are(scene.buffer, 1));
  CHECK(scene.buffer.try_borrow().has_value());
  const auto text = errc_text_of(scene.buffer.try_borrow_mut(), Errc::in_flight);
  CHECK(has(text, "PinnedBuffer::try_borrow_mut"));
  CHECK(has(text, "4096 bytes"));
  gate.open();
  rig.settle(scene.b);
  CHECK(scene.buffer.try_borrow_mut().has_value());
  CHECK(!scene.buffer.busy());
}

TEST_CASE("while the device writes, reading and writing wait") {
  const Rig rig(under_test());
  Scene scene(rig);
  Gate gate(rig, scene.b);
  scene.buffer.async_from_device(scene.b, scene.memory.span());
  errc_text_of(scene.buffer.try_borrow(), Errc::in_flight);
  errc_text_of(scene.buffer.try_borrow_mut(), Errc::in_flight);
  gate.open();
  rig.finish(scene.b);
  CHECK(all_are(scene.buffer, 9));
}

TEST_CASE("borrow waits until the write is done and then sees what was written") {
  const Rig rig(under_test());
  Scene scene(rig);
  Gate gate(rig, scene.b);
  scene.buffer.async_from_device(scene.b, scene.memory.span());
  bool right = false;
  std::thread waits([&] { right = all_are(scene.buffer, 9); });
  if (rig.simulated()) until_blocked(rig.sim());
  gate.open();
  waits.join();
  CHECK(right);
}

TEST_CASE("borrow waits for the write and for nothing that the stream does later") {
  const Rig rig;
  Scene scene(rig);
  scene.buffer.async_from_device(scene.b, scene.memory.span());
  scene.b.launch_host_function([] {});
  const auto other = rig.heap.make_buffer<std::byte>(4 * KiB);
  for (int i = 0; i != 40; ++i) other.async_to_device(scene.b, scene.memory.span());
  CHECK(rig.sim().step(scene.b, 2) == 2);  // the write and the event behind it
  CHECK(all_are(scene.buffer, 9));
  CHECK(rig.sim().pending(scene.b) > 40);
}

TEST_CASE("a thread that waits in borrow goes on as soon as the write is done") {
  const Rig rig;
  Scene scene(rig);
  scene.buffer.async_from_device(scene.b, scene.memory.span());
  for (int i = 0; i != 5; ++i) scene.b.launch_host_function([] {});
  std::thread waits([&] { (void)scene.buffer.borrow(); });
  until_blocked(rig.sim());
  CHECK(rig.sim().step(scene.b, 2) == 2);
  waits.join();
  CHECK(rig.sim().pending(scene.b) >= 5);
}

TEST_CASE("borrow does not wait for reads that the device began after its write") {
  const Rig rig;
  Scene scene(rig);
  scene.buffer.async_from_device(scene.b, scene.memory.span());
  DeviceBuffer<std::byte> more(scene.b, 4 * KiB);
  scene.buffer.async_to_device(scene.b, more.span());
  CHECK(rig.sim().step(scene.b, 2) == 2);
  CHECK(scene.buffer.try_borrow().has_value());
  errc_text_of(scene.buffer.try_borrow_mut(), Errc::in_flight);
}

TEST_CASE("borrow_mut waits for this buffer's uses and for no other's") {
  const Rig rig;
  Scene scene(rig);
  scene.buffer.async_to_device(scene.b, scene.memory.span());
  errc_text_of(scene.buffer.try_borrow_mut(), Errc::in_flight);  // who asks puts the event right behind
  const auto other = rig.heap.make_buffer<std::byte>(4 * KiB);
  for (int i = 0; i != 5; ++i) other.async_to_device(scene.b, scene.memory.span());
  std::thread waits([&] { fill(scene.buffer, 3); });
  until_blocked(rig.sim());
  while (rig.sim().blocked_callers() != 0 && rig.sim().pending(scene.b) > 5) rig.sim().step(scene.b);
  waits.join();
  CHECK(other.busy());
}

TEST_CASE("what is copied before long work waits for its own copy only") {
  constexpr std::size_t large = 2 * MiB;
  const Rig rig(stepped(), {.bytes = 8 * MiB});
  const Stream stream(rig.device);
  DeviceBuffer<std::byte> target(stream, large);
  auto big = rig.heap.make_buffer<std::byte>(large);
  auto written = rig.heap.make_buffer<std::byte>(4 * KiB);
  const std::pair<std::string, std::function<void()>> long_work[] = {
      {"a copy of 2 MiB to the device", [&] { big.async_to_device(stream, target.span()); }},
      {"a copy of 2 MiB to the host", [&] { big.async_from_device(stream, target.span()); }},
      {"a copy of 2 MiB to new device memory", [&] { (void)big.async_to_device(stream); }},
      {"a device write", [&] { written.async_from_device(stream, target.span().subspan(0, 4 * KiB)); }},
      {"a function", [&] { stream.launch_host_function([] {}); }},
      {"work of use_on", [&] { written.use_on(stream, Access::device_reads, [](const std::byte*, NativeStream) {}); }},
      {"work through the native handle", [&] { (void)stream.native(); }},
  };
  for (const auto& [what, enqueue] : long_work) {
    CAPTURE(what);
    rig.settle(stream);
    (void)rig.heap.collect();
    auto small = rig.heap.make_buffer<std::byte>(4 * KiB);
    small.async_to_device(stream, target.span());
    enqueue();
    stream.launch_host_function([] {});
    // The small copy, the event behind it, and in between new memory, which takes no time.
    const std::size_t operations = what.ends_with("new device memory") ? 3 : 2;
    CHECK(rig.sim().step(stream, operations) == operations);
    CHECK(small.try_borrow_mut().has_value());
    CHECK(rig.sim().pending(stream) != 0);
  }
}

TEST_CASE("a borrow with nothing in flight asks nobody") {
  const Rig rig;
  Scene scene(rig);
  const auto queries = rig.calls(SimulatedCall::query_event);
  const auto events = rig.calls(SimulatedCall::record_event);
  for (int i = 0; i != 100; ++i) {
    (void)scene.buffer.borrow_mut();
    (void)scene.buffer.borrow();
    (void)scene.buffer.busy();
  }
  CHECK(rig.calls(SimulatedCall::query_event) == queries);
  CHECK(rig.calls(SimulatedCall::record_event) == events);
}

TEST_CASE("many streams read one block at once, in any order, and none waits for another") {
  const Rig rig;
  const auto buffer = rig.heap.make_buffer<std::byte>(4 * KiB, std::byte{5});
  std::vector<Stream> streams;
  std::vector<DeviceBuffer<std::byte>> memories;
  for (int i = 0; i != 10; ++i) {
    streams.emplace_back(rig.device);
    memories.emplace_back(streams.back(), 4 * KiB);
    buffer.async_to_device(streams.back(), memories.back().span());
  }
  CHECK(rig.calls(SimulatedCall::wait_event) == 0);
  for (std::size_t i = streams.size(); i-- != 0;) {
    rig.sim().step(streams[i], 100);
    CHECK(rig.sim().pending(streams[i]) == 0);
  }
  for (std::size_t i = 0; i != streams.size(); ++i) CHECK(device_holds(rig, streams[i], memories[i], 5));
}

TEST_CASE("a write after reads on another stream is ordered by the device, and the CPU goes on") {
  const Rig rig(under_test());
  Scene scene(rig);
  const Stream third(rig.device);
  DeviceBuffer<std::byte> read_to(third, 4 * KiB);
  rig.finish(third);
  {
    Gate gate(rig, third);
    scene.buffer.async_to_device(third, read_to.span());           // reads 1
    scene.buffer.async_from_device(scene.b, scene.memory.span());  // writes 9: not before
    if (rig.simulated()) {
      CHECK(rig.calls(SimulatedCall::wait_event) == 1);
      rig.sim().step(scene.b, 100);
      CHECK(rig.sim().pending(scene.b) > 0);
      CHECK(all_are(scene.buffer.unsynchronized_data(), 4 * KiB, 1));
    }
  }
  rig.finish(third);
  rig.finish(scene.b);
  CHECK(all_are(scene.buffer, 9));
  CHECK(device_holds(rig, third, read_to, 1));
}

TEST_CASE("a read after a write on another stream is ordered by the device") {
  const Rig rig(under_test());
  Scene scene(rig);
  const Stream third(rig.device);
  DeviceBuffer<std::byte> read_to(third, 4 * KiB);
  rig.finish(third);
  {
    Gate gate(rig, scene.b);
    scene.buffer.async_from_device(scene.b, scene.memory.span());  // writes 9
    scene.buffer.async_to_device(third, read_to.span());           // reads that
    if (rig.simulated()) rig.sim().step(third, 100);
  }
  rig.finish(scene.b);
  rig.finish(third);
  CHECK(device_holds(rig, third, read_to, 9));
}

TEST_CASE("the second of two writes on two streams is what stays") {
  const Rig rig(under_test());
  Scene scene(rig);
  const Stream third(rig.device);
  DeviceBuffer<std::byte> two(third, 4 * KiB);
  rig.heap.make_buffer<std::byte>(4 * KiB, std::byte{2}).async_to_device(third, two.span());
  rig.finish(third);
  {
    Gate gate(rig, scene.b);
    scene.buffer.async_from_device(scene.b, scene.memory.span());
    scene.buffer.async_from_device(third, two.span());
    if (rig.simulated()) rig.sim().step(third, 100);
  }
  rig.finish(scene.b);
  rig.finish(third);
  CHECK(all_are(scene.buffer, 2));
}

TEST_CASE("uses on one stream need no waits") {
  const Rig rig;
  Scene scene(rig);
  for (int i = 0; i != 5; ++i) {
    scene.buffer.async_from_device(scene.a, scene.memory.span());
    scene.buffer.async_to_device(scene.a, scene.memory.span());
  }
  CHECK(rig.calls(SimulatedCall::wait_event) == 0);
}

TEST_CASE("a copy back on another stream comes after the copy that filled the device memory") {
  const Rig rig(under_test());
  const Stream a(rig.device), b(rig.device);
  auto memory = DeviceBuffer<std::byte>(a, 4 * KiB);
  rig.finish(a);
  Gate gate(rig, a);
  const auto buffer = rig.heap.make_buffer<std::byte>(4 * KiB, std::byte{6});
  memory = buffer.async_to_device(a);
  const auto back = memory.async_to_host(b, rig.heap);
  if (rig.simulated()) rig.sim().step(b, 100);
  CHECK(back.busy());
  gate.open();
  rig.finish(a);
  rig.finish(b);
  CHECK(all_are(back, 6));
}

TEST_CASE("wait blocks until every use is done, reads too") {
  const Rig rig(under_test());
  Scene scene(rig);
  Gate gate(rig, scene.b);
  scene.buffer.async_to_device(scene.b, scene.memory.span());
  std::thread waits([&] { scene.buffer.wait(); });
  if (rig.simulated()) until_blocked(rig.sim());
  gate.open();
  waits.join();
  CHECK(!scene.buffer.busy());
}

TEST_CASE("a wait that cannot be enqueued is an error, and the copy is not enqueued") {
  const Rig rig;
  Scene scene(rig);
  DeviceBuffer<std::byte> elsewhere(scene.a, 4 * KiB);
  scene.buffer.async_to_device(scene.a, elsewhere.span());
  rig.sim().fail_call(SimulatedCall::wait_event, 1);
  const auto copies = rig.calls(SimulatedCall::copy);
  errc_text([&] { scene.buffer.async_from_device(scene.b, scene.memory.span()); }, Errc::device_error);
  CHECK(rig.calls(SimulatedCall::copy) == copies);
  rig.finish(scene.a);
  CHECK(all_are(scene.buffer, 1));
  scene.buffer.async_from_device(scene.b, scene.memory.span());
  rig.finish(scene.b);
  CHECK(all_are(scene.buffer, 9));
}
