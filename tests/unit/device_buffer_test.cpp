// <thole/device_buffer.hpp>

#include <doctest/doctest.h>

#include <limits>
#include <optional>
#include <string>
#include <type_traits>

#include "support/rig.hpp"

using namespace support;

static_assert(std::is_convertible_v<DeviceSpan<int>, DeviceSpan<const int>>);
static_assert(!std::is_convertible_v<DeviceSpan<const int>, DeviceSpan<int>>);
static_assert(std::is_trivially_copyable_v<DeviceSpan<int>>);

TEST_CASE("a span knows its pointer, its count and its device, and parts of it do, too") {
  const Rig rig;
  const Stream stream(rig.device);
  DeviceBuffer<int> buffer(stream, 10);
  const DeviceSpan<int> span = buffer.span();
  CHECK(span.size() == 10);
  CHECK(span.size_bytes() == 40);
  CHECK(span.subspan(4, 3).native() == span.native() + 4);
  CHECK(span.subspan(4, 3).size() == 3);
  CHECK(span.subspan(10, 0).empty());
  CHECK(span.subspan(4, 3).device() == span.device());
  CHECK(DeviceSpan<int>::from_native(rig.device, span.native(), 10).device() == span.device());
}

TEST_CASE("a span's elements are bytes, too, of the same buffer") {
  const Rig rig(Device::simulated());
  const Stream stream(rig.device);
  DeviceBuffer<int> memory(stream, 10);
  const DeviceSpan<std::byte> bytes = memory.span().as_writable_bytes();
  CHECK(static_cast<void*>(bytes.native()) == memory.span().native());
  CHECK(bytes.size() == 40);
  CHECK(bytes.device() == memory.span().device());
  const auto ones = rig.heap.make_buffer<std::byte>(40, std::byte{1});
  ones.async_to_device(stream, bytes);
  auto back = rig.heap.make_buffer<std::byte>(40);
  back.async_from_device(stream, std::as_const(memory).span().as_bytes());
  CHECK(all_are(back, 1));
  memory = DeviceBuffer<int>();
  errc_text([&] { ones.async_to_device(stream, bytes); }, Errc::invalid_argument);  // it knows its buffer
}

TEST_CASE("more than the device has is out_of_memory with the number, and what fits still fits") {
  const Rig rig(Device::simulated({.device_bytes = MiB, .stepped = true}));
  const Stream stream(rig.device);
  const auto text = errc_text([&] { (void)DeviceBuffer<std::byte>(stream, 2 * MiB); }, Errc::out_of_memory);
  CHECK(has(text, std::to_string(2 * MiB)));
  CHECK(DeviceBuffer<std::byte>(stream, MiB / 2).size() == MiB / 2);
}

TEST_CASE("more elements than a size can say is too_large") {
  const Rig rig;
  const Stream stream(rig.device);
  errc_text([&] { (void)DeviceBuffer<double>(stream, std::numeric_limits<std::size_t>::max() / 4); }, Errc::too_large);
}

TEST_CASE("a moved-from device buffer is empty and says so") {
  const Rig rig;
  const Stream stream(rig.device);
  DeviceBuffer<int> from(stream, 10);
  const auto to = std::move(from);
  CHECK(from.empty());
  CHECK(from.span().empty());
  CHECK(has(errc_text([&] { (void)from.async_to_host(stream, rig.heap); }, Errc::moved_from), "async_to_host"));
  CHECK(to.size() == 10);
}

TEST_CASE("device memory is freed in the order of its stream, after its last use") {
  const Rig rig;
  const Stream stream(rig.device);
  {
    auto buffer = rig.heap.make_buffer<std::byte>(KiB);
    const auto there = buffer.async_to_device(stream);
  }
  CHECK(rig.sim().device_bytes() == KiB);
  rig.sim().run_all();
  CHECK(rig.sim().device_bytes() == 0);
}

TEST_CASE("device memory whose free is refused at first still goes after what the program ordered before it") {
  for (const bool captures : {false, true}) {
    CAPTURE(captures);
    const Rig rig;
    const Stream made_on(rig.device), writer(rig.device), reader(rig.device);
    auto target = std::make_optional<DeviceBuffer<std::byte>>(made_on, KiB);
    rig.settle(made_on);
    const auto back = target->async_to_host(reader, rig.heap);
    writer.wait(reader.record());
    const auto buffer = rig.heap.make_buffer<std::byte>(KiB);
    buffer.async_to_device(writer, target->span());  // thole does not see whose memory a span is
    made_on.wait(writer.record());                   // but the program orders it
    if (captures)
      rig.sim().begin_capture(made_on);
    else
      rig.sim().fail_call(SimulatedCall::wait_event, 1);
    target.reset();
    while (rig.sim().step(reader) != 0) {
    }
    (void)rig.heap.collect();
    if (captures) (void)rig.sim().end_capture(made_on);
    (void)rig.heap.collect();
    rig.sim().hold(writer);
    rig.sim().run_all();
    CHECK(rig.sim().device_bytes() == KiB);  // the writer's copy is still to come
    rig.sim().release(writer);
    rig.sim().run_all();
    CHECK(!rig.device.lost());
    rig.until_device_memory_is_free();
  }
}
