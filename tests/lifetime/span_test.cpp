// Rule 4 for device memory: a copy through a span of a DeviceBuffer is a use of that buffer. When memory is freed is
// seen by the bytes that the simulated device has given.

#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include <thole/graph.hpp>

#include "../support/rig.hpp"

using namespace support;

namespace {

using Bytes = PinnedBuffer<std::byte>;

}  // namespace

TEST_CASE("device memory is not freed while a copy through its span is to come") {
  const Rig rig;
  const Stream made_on(rig.device), stream(rig.device);
  auto source = rig.heap.make_buffer<std::byte>(4 * KiB, std::byte{7});
  auto target = std::make_unique<DeviceBuffer<std::byte>>(made_on, 4 * KiB);
  rig.sim().run_all();
  Gate gate(rig, stream);
  source.async_to_device(stream, target->span());
  target.reset();  // it is freed behind the copy, though that is on another stream
  rig.sim().run_all();
  (void)rig.heap.collect();
  rig.sim().run_all();
  CHECK(rig.sim().device_bytes() == 4 * KiB);
  gate.open();
  rig.until_device_memory_is_free();
  CHECK(!rig.device.lost());
}

TEST_CASE("a span may be of what no buffer can be of") {
  struct Incomplete;
  static_assert(std::is_copy_constructible_v<DeviceSpan<std::pair<int, float>>>);
  static_assert(std::is_copy_constructible_v<DeviceSpan<volatile int>>);
  static_assert(std::is_copy_constructible_v<DeviceSpan<Incomplete>>);
  const auto span = DeviceSpan<std::pair<int, float>>::from_native(Rig().device, nullptr, 0);
  CHECK(DeviceSpan(span).empty());
}

TEST_CASE("where a span is asked for, a buffer of the device's stands for all of it, unless it is about to go") {
  using Memory = DeviceBuffer<std::byte>;
  static_assert(std::is_convertible_v<Memory&, DeviceSpan<std::byte>>);
  static_assert(std::is_convertible_v<Memory&, DeviceSpan<const std::byte>>);
  static_assert(std::is_convertible_v<const Memory&, DeviceSpan<const std::byte>>);
  static_assert(!std::is_convertible_v<const Memory&, DeviceSpan<std::byte>>);
  static_assert(!std::is_convertible_v<Memory, DeviceSpan<std::byte>>);
  static_assert(!std::is_convertible_v<Memory, DeviceSpan<const std::byte>>);
  const Rig rig(under_test());
  const Stream stream(rig.device);
  Memory memory(stream, 4 * KiB);
  auto back = rig.heap.make_buffer<std::byte>(4 * KiB);
  rig.heap.make_buffer<std::byte>(4 * KiB, std::byte{6}).async_to_device(stream, memory);
  back.async_from_device(stream, memory);
  rig.settle(stream);
  CHECK(all_are(back, 6));
}

TEST_CASE("a copy through a span comes after what filled the buffer on another stream") {
  const Rig rig(under_test());
  const Stream filling(rig.device), reading(rig.device);
  auto back = rig.heap.make_buffer<std::byte>(4 * KiB, std::byte{0});
  auto source = rig.heap.make_buffer<std::byte>(4 * KiB, std::byte{3});
  DeviceBuffer<std::byte> memory(filling, 4 * KiB);
  rig.settle(filling);
  Gate gate(rig, filling);
  source.async_to_device(filling, memory.span());
  back.async_from_device(reading, memory.span());
  if (rig.simulated()) rig.sim().run_all();
  errc_text_of(back.try_borrow(), Errc::in_flight);
  gate.open();
  rig.settle(filling);
  rig.settle(reading);
  CHECK(all_are(back, 3));
}

TEST_CASE("a span whose DeviceBuffer is gone is refused, also when another buffer has its record") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  const auto source = rig.heap.make_buffer<std::byte>(16);
  DeviceSpan<std::byte> dangling, part;
  {
    DeviceBuffer<std::byte> memory(stream, 16);
    dangling = memory.span();
    part = dangling.subspan(4, 8);
  }
  rig.settle(stream);
  const DeviceBuffer<std::byte> next(stream, 16);
  CHECK(has(errc_text([&] { source.async_to_device(stream, dangling); }, Errc::invalid_argument),
            "DeviceBuffer that is gone"));
  errc_text([&] { source.async_to_device(stream, part, 0, 8); }, Errc::invalid_argument);
  auto back = rig.heap.make_buffer<std::byte>(16);
  errc_text([&] { back.async_from_device(stream, DeviceSpan<const std::byte>(dangling)); }, Errc::invalid_argument);
}

TEST_CASE("a graph keeps the device memory behind a span") {
  const Rig rig;
  const Stream stream(rig.device);
  auto memory = std::make_unique<DeviceBuffer<std::byte>>(stream, 4 * KiB);
  auto source = rig.heap.make_buffer<std::byte>(4 * KiB, std::byte{9});
  rig.settle(stream);
  rig.sim().begin_capture(stream);
  source.async_to_device(stream, memory->span());
  {
    auto graph = rig.sim().end_capture(stream);
    memory.reset();
    rig.sim().run_all();
    CHECK(rig.sim().device_bytes() == 4 * KiB);
    auto exec = graph.instantiate();
    exec.launch(stream);
    rig.sim().run_all();
    CHECK(!rig.device.lost());
  }
  rig.until_device_memory_is_free();
}

TEST_CASE("the device memory behind a span that only a graph has goes to nobody else") {
  const Rig rig(under_test());
  const Stream stream(rig.device), other(rig.device);
  auto source = rig.heap.make_buffer<std::byte>(4 * KiB, std::byte{9});
  auto back = rig.heap.make_buffer<std::byte>(4 * KiB);
  auto exec = [&] {
    auto memory = std::make_unique<DeviceBuffer<std::byte>>(stream, 4 * KiB);
    rig.settle(stream);
    source.async_to_device(stream, memory->span());
    rig.settle(stream);
    Graph graph = capture(stream, [&] { back.async_from_device(stream, memory->span()); });
    memory.reset();
    return graph.instantiate();
  }();
  rig.settle(stream);
  (void)rig.heap.collect();
  std::vector<DeviceBuffer<std::byte>> others;  // on the streams that the freed memory would be had from
  const auto overwrite = rig.heap.make_buffer<std::byte>(4 * KiB, std::byte{1});
  for (int i = 0; i != 50; ++i) others.push_back(overwrite.async_to_device(i % 2 == 0 ? stream : other));
  rig.settle(other);
  exec.launch(stream);
  rig.settle(stream);
  CHECK(all_are(back, 9));
}
