// Rule 4: any number of Borrows, or one BorrowMut; a borrow keeps the memory whatever happens to the buffer. What
// counts calls, or races with steps, is asked of the simulated device.

#include <optional>
#include <utility>
#include <vector>

#include "../support/rig.hpp"

using namespace support;

namespace {

using Bytes = PinnedBuffer<std::byte>;

struct Scene {
  explicit Scene(const Rig& rig)
      : stream(rig.device),
        memory(stream, rig.arena.capacity()),
        buffer(rig.heap.make_buffer<std::byte>(rig.arena.capacity(), std::byte{4})) {
    rig.finish(stream);
  }
  Stream stream;
  DeviceBuffer<std::byte> memory;
  Bytes buffer;
};

}  // namespace

TEST_CASE("any number of borrows live at once, and no mutable one beside them") {
  const Rig rig(under_test());
  Scene scene(rig);
  {
    const auto one = scene.buffer.borrow();
    const auto two = scene.buffer.borrow();
    const auto text = errc_text([&] { (void)scene.buffer.borrow_mut(); }, Errc::borrowed);
    CHECK(has(text, "PinnedBuffer::borrow_mut"));
    CHECK(has(text, "2 live Borrows"));
    CHECK(has(text, std::to_string(rig.arena.capacity()) + " bytes"));
    errc_text_of(scene.buffer.try_borrow_mut(), Errc::borrowed);
    CHECK(scene.buffer.try_borrow().has_value());
  }
  CHECK(scene.buffer.try_borrow_mut().has_value());
}

TEST_CASE("one mutable borrow excludes every other") {
  const Rig rig(under_test());
  Scene scene(rig);
  {
    const auto one = scene.buffer.borrow_mut();
    CHECK(has(errc_text([&] { (void)scene.buffer.borrow(); }, Errc::borrowed), "a live BorrowMut"));
    errc_text([&] { (void)scene.buffer.borrow_mut(); }, Errc::borrowed);
    errc_text_of(scene.buffer.try_borrow(), Errc::borrowed);
    errc_text_of(scene.buffer.try_borrow_mut(), Errc::borrowed);
  }
  CHECK(scene.buffer.try_borrow().has_value());
}

TEST_CASE("a BorrowMut that is shared is a Borrow, and at no moment can another write") {
  const Rig rig(under_test());
  Scene scene(rig);
  auto writer = scene.buffer.borrow_mut();
  writer[3] = std::byte{9};
  const std::byte* const data = writer.data();
  auto reader = std::make_optional(std::move(writer).share());
  static_assert(std::is_same_v<decltype(reader), std::optional<Borrow<std::byte>>>);
  CHECK(writer.empty());
  CHECK(reader->data() == data);
  CHECK((*reader)[3] == std::byte{9});
  CHECK(has(errc_text([&] { (void)scene.buffer.borrow_mut(); }, Errc::borrowed), "1 live Borrow"));
  const auto beside = scene.buffer.borrow();
  scene.buffer.async_to_device(scene.stream, scene.memory.span());  // a device read
  errc_text([&] { scene.buffer.async_from_device(scene.stream, scene.memory.span()); }, Errc::borrowed);
  rig.finish(scene.stream);
  reader.reset();
  CHECK(has(errc_text([&] { (void)scene.buffer.borrow_mut(); }, Errc::borrowed), "1 live Borrow"));
}

TEST_CASE("a shared BorrowMut that outlives its buffer keeps the memory, and frees it") {
  const Rig rig(under_test());
  auto scene = std::make_optional<Scene>(rig);
  auto writer = scene->buffer.borrow_mut();
  scene.reset();
  {
    const auto reader = std::move(writer).share();
    CHECK(!rig.heap.try_make_buffer<std::byte>(1).has_value());
    CHECK(all_are(reader.data(), reader.size(), 4));
  }
  CHECK(rig.all_free());
}

TEST_CASE("a device read under a mutable borrow is an error, and nothing is enqueued") {
  const Rig rig(under_test());
  Scene scene(rig);
  const auto pending = rig.simulated() ? rig.sim().pending() : 0;
  {
    const auto borrow = scene.buffer.borrow_mut();
    const auto text =
        errc_text([&] { scene.buffer.async_to_device(scene.stream, scene.memory.span()); }, Errc::borrowed);
    CHECK(has(text, "PinnedBuffer::async_to_device"));
    errc_text_of(scene.buffer.try_async_to_device(scene.stream, scene.memory.span()), Errc::borrowed);
    errc_text(
        [&] {
          scene.buffer.use_on(scene.stream, Access::device_reads, [](const std::byte*, NativeStream) { FAIL(""); });
        },
        Errc::borrowed);
  }
  if (rig.simulated()) CHECK(rig.sim().pending() == pending);
  scene.buffer.async_to_device(scene.stream, scene.memory.span());
}

TEST_CASE("a device read under a shared borrow is allowed") {
  const Rig rig(under_test());
  Scene scene(rig);
  const auto borrow = scene.buffer.borrow();
  scene.buffer.async_to_device(scene.stream, scene.memory.span());
  scene.buffer.use_on(scene.stream, Access::device_reads, [](const std::byte*, NativeStream) {});
}

TEST_CASE("a device write under any borrow is an error, and nothing is enqueued") {
  const Rig rig(under_test());
  Scene scene(rig);
  const auto pending = rig.simulated() ? rig.sim().pending() : 0;
  const auto refused = [&] {
    CHECK(has(errc_text([&] { scene.buffer.async_from_device(scene.stream, scene.memory.span()); }, Errc::borrowed),
              "PinnedBuffer::async_from_device"));
    errc_text([&] { scene.buffer.use_on(scene.stream, Access::device_writes, [](std::byte*, NativeStream) {}); },
              Errc::borrowed);
    errc_text(
        [&] {
          scene.buffer.use_on(scene.stream, Access::device_reads | Access::device_writes,
                              [](std::byte*, NativeStream) {});
        },
        Errc::borrowed);
  };
  {
    const auto borrow = scene.buffer.borrow();
    refused();
  }
  {
    const auto borrow = scene.buffer.borrow_mut();
    refused();
  }
  if (rig.simulated()) CHECK(rig.sim().pending() == pending);
  scene.buffer.async_from_device(scene.stream, scene.memory.span());
}

TEST_CASE("the rule about borrows comes before any waiting") {
  const Rig rig(under_test());
  Scene scene(rig);
  const auto borrow = scene.buffer.borrow();
  scene.buffer.async_to_device(scene.stream, scene.memory.span());
  errc_text([&] { (void)scene.buffer.borrow_mut(); }, Errc::borrowed);  // would never return otherwise
}

TEST_CASE("a borrow that outlives its buffer keeps the memory") {
  const Rig rig(under_test());
  auto scene = std::make_optional<Scene>(rig);
  {
    const auto borrow = scene->buffer.borrow();
    scene.reset();
    CHECK(!rig.heap.try_make_buffer<std::byte>(1).has_value());
    CHECK(all_are(borrow.data(), borrow.size(), 4));
    CHECK(rig.heap.stats().in_use >= rig.arena.capacity());
  }
  CHECK(rig.all_free());
}

TEST_CASE("of several borrows that outlive their buffer the last one frees it") {
  const Rig rig(under_test());
  auto scene = std::make_optional<Scene>(rig);
  auto one = std::make_optional(scene->buffer.borrow());
  auto two = std::make_optional(scene->buffer.borrow());
  scene.reset();
  one.reset();
  CHECK(!rig.all_free());
  two.reset();
  CHECK(rig.all_free());
}

TEST_CASE("a borrow may end on another thread, before and after its buffer") {
  const Rig rig(under_test());
  for (const bool buffer_first : {true, false}) {
    auto scene = std::make_optional<Scene>(rig);
    auto borrow = std::make_optional(scene->buffer.borrow_mut());
    if (buffer_first) scene.reset();
    std::thread([&] { borrow.reset(); }).join();
    if (!buffer_first) CHECK(scene->buffer.try_borrow_mut().has_value());
    scene.reset();
    CHECK(rig.all_free());
  }
}

TEST_CASE("a borrow that ends on another thread lets the next begin here, with what it wrote") {
  const Rig rig(under_test());
  Scene scene(rig);
  for (int round = 0; round != 50; ++round) {
    std::thread([borrow = scene.buffer.borrow_mut(), round]() mutable {
      std::memset(borrow.data(), round, borrow.size());
      const auto ends = std::move(borrow);
    }).join();
    CHECK(all_are(scene.buffer, round));
  }
}

TEST_CASE("a copy that is taken as soon as a borrow has ended on another thread comes after what that one did") {
  const Rig rig(Device::simulated());
  const Stream stream(rig.device);
  auto buffer = rig.heap.make_buffer<std::byte>(4 * KiB, std::byte{0});
  DeviceBuffer<std::byte> there(stream, 4 * KiB);
  for (int round = 1; round != 50; ++round) {
    // Nothing but the refusals says when the other thread is done: TSan sees what that is worth.
    std::thread writes([borrow = buffer.borrow_mut(), round]() mutable {
      std::memset(borrow.data(), round, borrow.size());
      const auto ends = std::move(borrow);
    });
    until([&] { return buffer.try_async_to_device(stream, there.span()).has_value(); });
    writes.join();
    std::byte seen{};
    std::thread reads([borrow = buffer.borrow(), &seen]() mutable {
      seen = borrow[0];
      const auto ends = std::move(borrow);
    });
    until([&] { return buffer.try_async_from_device(stream, there.span()).has_value(); });
    reads.join();
    CHECK(seen == std::byte(round));
    CHECK(all_are(buffer, round));
  }
}

TEST_CASE("a buffer may be handed to another thread and borrowed there") {
  const Rig rig(under_test());
  Scene scene(rig);
  auto here = std::make_optional(scene.buffer.borrow());
  std::thread([&, moved = std::move(scene.buffer)]() mutable {
    const auto there = moved.borrow();
    errc_text_of(moved.try_borrow_mut(), Errc::borrowed);
    here.reset();
    errc_text_of(moved.try_borrow_mut(), Errc::borrowed);
  }).join();
  scene.memory = DeviceBuffer<std::byte>(scene.stream, 1);
  CHECK(rig.all_free());
}

TEST_CASE("moving the buffer moves its borrows with it") {
  const Rig rig(under_test());
  Scene scene(rig);
  const auto borrow = scene.buffer.borrow();
  auto moved = std::move(scene.buffer);
  errc_text_of(moved.try_borrow_mut(), Errc::borrowed);
  CHECK(borrow.data() == moved.unsynchronized_data());
  scene.buffer = std::move(moved);
  errc_text_of(scene.buffer.try_borrow_mut(), Errc::borrowed);
  CHECK(all_are(borrow.data(), borrow.size(), 4));
}

TEST_CASE("moving a borrow does not end it, and ends nothing twice") {
  const Rig rig(under_test());
  Scene scene(rig);
  auto one = scene.buffer.borrow();
  {
    const auto two = std::move(one);
    CHECK(two.size() == scene.buffer.size());
    CHECK(one.empty());
    errc_text_of(scene.buffer.try_borrow_mut(), Errc::borrowed);
  }
  CHECK(scene.buffer.try_borrow_mut().has_value());
}

TEST_CASE("assigning to a borrow ends the one that it held") {
  const Rig rig(under_test());
  auto a = rig.heap.make_buffer<std::byte>(64);
  auto b = rig.heap.make_buffer<std::byte>(64);
  auto borrow = a.borrow_mut();
  borrow = b.borrow_mut();
  CHECK(a.try_borrow_mut().has_value());
  errc_text_of(b.try_borrow_mut(), Errc::borrowed);
}

TEST_CASE("memory that is borrowed and in flight is free when both have ended, in either order") {
  const Rig rig(under_test());
  for (const bool borrow_first : {true, false}) {
    auto scene = std::make_optional<Scene>(rig);
    DeviceBuffer<std::byte> target(scene->stream, rig.arena.capacity());
    Gate gate(rig, scene->stream);
    auto borrow = std::make_optional(scene->buffer.borrow());
    scene->buffer.async_to_device(scene->stream, target.span());
    { const auto dropped = std::move(scene->buffer); }
    if (borrow_first) {
      borrow.reset();
      CHECK(!rig.all_free());
      gate.open();
      rig.settle(scene->stream);
    } else {
      gate.open();
      rig.settle(scene->stream);
      CHECK(!rig.all_free());
      borrow.reset();
    }
    CHECK(rig.all_free());
  }
}

TEST_CASE("the last borrow of a dropped buffer makes no call to the device when it ends") {
  const Rig rig;
  Scene scene(rig);
  auto borrow = std::make_optional(scene.buffer.borrow());
  scene.buffer.async_to_device(scene.stream, scene.memory.span());
  { const auto dropped = std::move(scene.buffer); }
  const auto pending = rig.sim().pending();
  const auto queries = rig.calls(SimulatedCall::query_event);
  borrow.reset();
  CHECK(rig.sim().pending() == pending);
  CHECK(rig.calls(SimulatedCall::query_event) == queries);
  CHECK(rig.heap.stats().in_flight >= rig.arena.capacity());
}

TEST_CASE("a borrow that failed has not begun") {
  const Rig rig(under_test());
  Scene scene(rig);
  Gate gate(rig, scene.stream);
  scene.buffer.async_from_device(scene.stream, scene.memory.span());
  errc_text_of(scene.buffer.try_borrow(), Errc::in_flight);
  errc_text_of(scene.buffer.try_borrow_mut(), Errc::in_flight);
  gate.open();
  rig.finish(scene.stream);
  CHECK(scene.buffer.try_borrow_mut().has_value());
}
