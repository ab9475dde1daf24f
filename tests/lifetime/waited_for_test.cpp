// A stream that waits for another's work already is not made to wait for it again. Waits are counted, which the
// simulated device does.

#include <array>
#include <optional>
#include <vector>

#include <thole/graph.hpp>

#include "../support/rig.hpp"
#include "streams/waited_for.hpp"

using namespace support;

namespace {

constexpr std::size_t bytes = 4 * KiB;
using Memory = DeviceBuffer<std::byte>;
const auto nothing = [](auto&&...) {};

/// A stream whose copies are to be waited for, and one that waits.
struct Pair : Rig {
  std::size_t waits() const { return calls(SimulatedCall::wait_event); }
  void copy_to(Memory& memory, int value = 1) const {
    heap.make_buffer<std::byte>(bytes, static_cast<std::byte>(value)).async_to_device(copies, memory.span());
  }
  void read(const Memory& memory) const { use_on(other, reads(memory), nothing); }
  Stream copies{device}, other{device};
};

}  // namespace

TEST_CASE("a stream waits once for what another was given, however often it uses that") {
  const Pair on;
  Memory first(on.copies, bytes), second(on.copies, bytes);
  on.copy_to(first);
  on.copy_to(second);
  const auto before = on.waits();
  on.read(second);
  CHECK(on.waits() == before + 1);
  for (int i = 0; i != 5; ++i) {
    on.read(first);  // what came before it has been waited for, too
    on.read(second);
  }
  CHECK(on.waits() == before + 1);
  const auto back = second.async_to_host(on.other, on.heap);
  on.settle(on.other);
  CHECK(all_are(back, 1));
}

TEST_CASE("work that another stream was given since is waited for") {
  const Pair on;
  Memory memory(on.copies, bytes);
  on.copy_to(memory, 1);
  on.read(memory);
  on.sim().run_all();
  for (int value = 2; value != 5; ++value) {
    const auto before = on.waits();
    on.copy_to(memory, value);
    const auto back = memory.async_to_host(on.other, on.heap);
    CHECK(on.waits() > before);
    for (int i = 0; i != 3; ++i) on.sim().step(on.other, 100);
    on.settle(on.other);
    CHECK(all_are(back, value));
  }
}

TEST_CASE("an event that the program has a stream wait for is not waited for again") {
  const Pair on;
  Memory first(on.copies, bytes), second(on.copies, bytes);
  on.copy_to(first);
  on.other.wait(on.copies.record());
  const auto before = on.waits();
  on.read(first);
  CHECK(on.waits() == before);
  on.copy_to(second);
  on.read(second);
  CHECK(on.waits() == before + 1);
}

TEST_CASE("a wait that the device has refused is made with the next use") {
  const Pair on;
  Memory memory(on.copies, bytes);
  on.copy_to(memory);
  const Event event = on.copies.record();
  SUBCASE("of the stream's work") {
    on.sim().fail_call(SimulatedCall::wait_event, 1);
    errc_text([&] { on.read(memory); }, Errc::device_error);
  }
  SUBCASE("of an event") {
    on.sim().fail_call(SimulatedCall::wait_event, 1);
    errc_text([&] { on.other.wait(event); }, Errc::device_error);
  }
  const auto back = memory.async_to_host(on.other, on.heap);
  on.sim().step(on.other, 100);
  CHECK(on.sim().pending(on.other) != 0);
  on.settle(on.other);
  CHECK(all_are(back, 1));
}

TEST_CASE("a wait inside a capture is the graph's, and none of the stream's") {
  const Pair on;
  Memory memory(on.copies, bytes);
  (void)capture(on.copies, [&] {
    for (int i = 0; i != 100; ++i) {
      on.other.wait(on.copies.record());
      on.copies.wait(on.other.record());
    }
  });
  on.copy_to(memory);
  const auto before = on.waits();
  on.read(memory);
  CHECK(on.waits() == before + 1);
}

TEST_CASE("a stream that has begun to capture waits for nothing outside, though it waits for that already") {
  const Pair on;
  Memory memory(on.copies, bytes);
  on.copy_to(memory);
  on.read(memory);
  void* const native = on.other.native();
  const auto begin = [&] { REQUIRE(on.backend().begin_capture(native, detail::CaptureMode::relaxed).ok()); };
  SUBCASE("before the call") {
    begin();
    errc_text([&] { on.read(memory); }, Errc::in_flight);
  }
  SUBCASE("in the middle of it") {
    on.sim().after_call(SimulatedCall::capture_info, begin);
    errc_text([&] { on.read(memory); }, Errc::capturing);
  }
  detail::GraphHandle graph = nullptr;
  REQUIRE(on.backend().end_capture(native, &graph).ok());
  CHECK(on.backend().destroy_graph(graph).ok());
}

TEST_CASE("a foreign stream that thole has forgotten, and meets again, is waited for anew") {
  const Rig rig;
  const Stream other(rig.device);
  void* native = nullptr;
  REQUIRE(rig.backend().create_stream(&native).ok());
  for (const int copies : {50, 1}) {
    const auto foreign = detail::unwrap(detail::stream_from_native(rig.device, native));
    Memory memory(other, bytes);
    rig.settle(other);
    for (int i = 0; i != copies; ++i) rig.heap.make_buffer<std::byte>(bytes).async_to_device(foreign, memory.span());
    const auto before = rig.calls(SimulatedCall::wait_event);
    use_on(other, reads(memory), nothing);
    CHECK(rig.calls(SimulatedCall::wait_event) == before + 1);
    rig.sim().run_all();
    (void)rig.heap.collect();
  }
  CHECK(rig.backend().destroy_stream(native).ok());
}

TEST_CASE("of many streams a stream knows the last few that it waits for, each up to its latest position") {
  detail::WaitedFor waits;
  CHECK(!waits.covers(1, 1));
  waits.add(1, 5);
  waits.add(1, 3);
  CHECK(waits.covers(1, 5));
  CHECK(!waits.covers(1, 6));
  CHECK(!waits.covers(2, 1));
  for (std::uint64_t stream = 2; stream != 5; ++stream) waits.add(stream, stream);
  waits.add(1, 9);
  CHECK(waits.covers(1, 9));
  waits.add(5, 5);  // in place of the one that came first
  CHECK(!waits.covers(1, 1));
  for (std::uint64_t stream = 2; stream != 6; ++stream) {
    CHECK(waits.covers(stream, stream));
    CHECK(!waits.covers(stream, stream + 1));
  }
}
