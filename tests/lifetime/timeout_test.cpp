// Waits with an end: what is not done in the given time is Errc::timed_out, and nothing is lost; thole::forever has
// none. One case loses its device, which is simulated.

#include <array>
#include <optional>
#include <vector>

#include "../support/rig.hpp"

using namespace support;
using namespace std::chrono_literals;

namespace {

constexpr std::size_t bytes = 4 * KiB;
const auto nothing = [](auto&&...) {};

/// Runs `wait` on another thread, which is let in by `open` once it waits in the device.
template <class Wait, class Open>
void waits_until(const Rig& rig, Wait wait, Open open) {
  std::atomic<bool> returned{false};
  std::thread thread([&] {
    wait();
    returned = true;
  });
  if (rig.simulated()) until_blocked(rig.sim());
  CHECK(!returned);
  open();
  thread.join();
}

}  // namespace

TEST_CASE("a borrow with a timeout is had at once where nothing is in the way, also with no time at all") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  auto buffer = rig.heap.make_buffer<int>(4, 3);
  CHECK((*buffer.try_borrow_for(0ns))[3] == 3);
  (*buffer.try_borrow_mut_for(0ns))[3] = 4;
  CHECK((*buffer.try_borrow_for(forever))[3] == 4);
  auto empty = rig.heap.make_buffer<int>(0);
  CHECK(empty.try_borrow_for(0ns)->empty());
  CHECK(empty.try_borrow_mut_for(forever)->empty());
  buffer.use_on(stream, Access::device_reads, nothing);
  CHECK(buffer.try_borrow_for(0ns).has_value());  // the device only reads
  rig.settle(stream);
  CHECK(buffer.try_borrow_mut_for(0ns).has_value());
}

TEST_CASE("a deadline that is past asks once: what is done is had, and what is not is timed_out") {
  for (const auto left :
       {std::chrono::nanoseconds(0), std::chrono::nanoseconds(-5s), std::chrono::nanoseconds::min()}) {
    const Rig rig(under_test());
    const Stream stream(rig.device);
    DeviceBuffer<std::byte> memory(stream, bytes);
    rig.settle(stream);
    auto buffer = rig.heap.make_buffer<std::byte>(rig.arena.capacity());
    Gate gate(rig, stream);
    buffer.use_on(stream, Access::device_writes, nothing);
    const Event event = stream.record();
    const auto all = [&](auto check) {
      check(buffer.try_borrow_for(left));
      check(buffer.try_borrow_mut_for(left));
      check(buffer.wait_for(left));
      check(event.wait_for(left));
      check(rig.heap.drain_for(left));
    };
    all([](const auto& result) { errc_text_of(result, Errc::timed_out); });
    errc_text_of(rig.heap.try_make_buffer_for<std::byte>(1, left), Errc::timed_out);
    errc_text_of(memory.try_async_to_host_for(stream, rig.heap, left), Errc::timed_out);
    gate.open();
    rig.finish(stream);
    all([](const auto& result) { CHECK(result.has_value()); });
    buffer = {};
    CHECK(rig.heap.try_make_buffer_for<std::byte>(1, left).has_value());
    CHECK(memory.try_async_to_host_for(stream, rig.heap, left).has_value());
  }
}

TEST_CASE("a borrow whose time is over is timed_out, and the buffer is as it was") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  auto buffer = rig.heap.make_buffer<std::byte>(bytes);
  Gate gate(rig, stream);
  buffer.use_on(stream, Access::device_writes, nothing);
  for (const auto timeout : {0ns, 1000ns}) {
    CHECK(has(errc_text_of(buffer.try_borrow_for(timeout), Errc::timed_out), "PinnedBuffer::try_borrow_for"));
    CHECK(has(errc_text_of(buffer.try_borrow_mut_for(timeout), Errc::timed_out), "4096 bytes"));
    errc_text_of(buffer.wait_for(timeout), Errc::timed_out);
  }
  gate.open();
  rig.finish(stream);
  CHECK(buffer.try_borrow_mut_for(0ns).has_value());
}

TEST_CASE("a borrow that is in the way is an error at once, whatever the time") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  auto buffer = rig.heap.make_buffer<int>(4);
  buffer.use_on(stream, Access::device_reads, nothing);
  const auto borrow = buffer.borrow();
  errc_text_of(buffer.try_borrow_mut_for(forever), Errc::borrowed);
}

TEST_CASE("a wait with a timeout ends when the device is done") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  auto buffer = rig.heap.make_buffer<std::byte>(bytes);
  std::optional<Gate> gate;
  const auto use = [&] {
    gate.emplace(rig, stream);
    buffer.use_on(stream, Access::device_writes, nothing);
  };
  const auto open = [&] { gate->open(); };
  use();
  waits_until(
      rig, [&] { CHECK(buffer.try_borrow_for(forever).has_value()); }, open);
  use();
  waits_until(
      rig, [&] { CHECK(buffer.try_borrow_mut_for(forever).has_value()); }, open);
  use();
  waits_until(
      rig, [&] { CHECK(buffer.wait_for(forever).has_value()); }, open);
  use();
  const auto event = stream.record();
  waits_until(
      rig, [&] { CHECK(event.wait_for(forever).has_value()); }, open);
  use();
  waits_until(
      rig, [&] { CHECK(stream.synchronize_for(forever).has_value()); }, open);
  use();
  waits_until(
      rig, [&] { CHECK(rig.heap.drain_for(forever).has_value()); }, open);
}

TEST_CASE("a wait with a timeout ends with the device when that is lost") {
  const Rig rig;
  const Stream stream(rig.device);
  auto buffer = rig.heap.make_buffer<std::byte>(bytes);
  buffer.use_on(stream, Access::device_writes, nothing);
  waits_until(
      rig, [&] { errc_text_of(buffer.try_borrow_for(forever), Errc::device_lost); }, [&] { rig.sim().lose_device(); });
  errc_text_of(buffer.try_borrow_mut_for(1h), Errc::device_lost);
}

TEST_CASE("what was moved from says so in each wait") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  auto buffer = rig.heap.make_buffer<int>(4);
  DeviceBuffer<int> memory(stream, 4);
  { auto gone = std::move(buffer); }
  { auto gone = std::move(memory); }
  errc_text_of(buffer.try_borrow_for(forever), Errc::moved_from);
  errc_text_of(buffer.try_borrow_mut_for(forever), Errc::moved_from);
  errc_text_of(memory.try_async_to_host_for(stream, rig.heap, forever), Errc::moved_from);
}

TEST_CASE("a buffer is made when another thread drops one, or a copy in flight gives memory back") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  const auto whole = rig.arena.capacity();
  auto held = std::make_optional(rig.heap.make_buffer<std::byte>(whole));
  CHECK(has(errc_text([&] { (void)rig.heap.make_buffer_for<std::byte>(whole, 0ns); }, Errc::timed_out),
            "PinnedHeap::make_buffer_for"));
  errc_text([&] { (void)rig.heap.make_buffer_for<std::byte>(2 * whole, forever); }, Errc::too_large);
  std::atomic<bool> made{false};
  std::optional<Gate> gate;
  std::thread thread([&] {
    auto buffer = rig.heap.make_buffer_for<std::byte>(whole, forever);
    made = true;
    gate.emplace(rig, stream);
    buffer.use_on(stream, Access::device_reads, nothing);
  });
  until([&] { return rig.heap.stats().waited >= 2; });
  CHECK(!made);
  held.reset();
  thread.join();
  CHECK(!rig.all_free());
  thread = std::thread([&] { CHECK(rig.heap.make_buffer_for<std::byte>(whole, forever).size() == whole); });
  until([&] { return rig.heap.stats().waited >= 3; });
  gate->open();
  thread.join();
}

TEST_CASE("a copy to the host waits for pinned memory so long at most") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  const auto whole = rig.arena.capacity();
  DeviceBuffer<std::byte> memory(stream, whole);
  auto held = std::make_optional(rig.heap.make_buffer<std::byte>(whole, std::byte{5}));
  held->async_to_device(stream, memory.span());
  rig.settle(stream);
  errc_text_of(memory.try_async_to_host_for(stream, rig.heap, 0ns), Errc::timed_out);
  errc_text([&] { (void)memory.async_to_host_for(stream, rig.heap, 1000ns); }, Errc::timed_out);
  held.reset();
  const auto back = memory.async_to_host_for(stream, rig.heap, forever);
  rig.settle(stream);
  CHECK(all_are(back, 5));
}

// ---- Empty ones

TEST_CASE("a default-constructed buffer is empty and valid in every call, and a place to move to") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  struct Slot {
    PinnedBuffer<int> pinned;
    DeviceBuffer<int> device;
    Borrow<int> borrow;
  };
  std::vector<Slot> slots(2);
  for (Slot& slot : slots) {
    CHECK(slot.pinned.empty());
    CHECK(!slot.pinned.busy());
    CHECK(slot.pinned.borrow().empty());
    CHECK(slot.pinned.borrow_mut().empty());
    slot.pinned.wait();
    CHECK(slot.pinned.async_to_device(stream).empty());
    CHECK(slot.pinned.use_on(stream, Access::device_writes, [](int* data, NativeStream) { return data == nullptr; }));
    slot.pinned.async_to_device(stream, slot.device.span());
    slot.pinned.async_from_device(stream, slot.device.span());
    CHECK(slot.device.empty());
    CHECK(slot.device.span().empty());
    CHECK(slot.device.async_to_host(stream, rig.heap).empty());
    CHECK(use_on(stream, reads(slot.pinned), writes(slot.device),
                 [](const int* a, int* b, NativeStream) { return a == nullptr && b == nullptr; }));
    CHECK(slot.borrow.empty());
    slot.borrow.drop();
  }
  slots[1].pinned = rig.heap.make_buffer<int>(4, 6);
  slots[1].device = slots[1].pinned.async_to_device(stream);
  const auto back = slots[1].device.async_to_host(stream, rig.heap);
  rig.settle(stream);
  CHECK(back.borrow()[3] == 6);
  auto gone = std::move(slots[0].pinned);
  errc_text([&] { (void)slots[0].pinned.borrow(); }, Errc::moved_from);
  slots[0].pinned = std::move(gone);
  CHECK(slots[0].pinned.borrow().empty());
}

TEST_CASE("a borrow that is dropped has ended, and may be dropped again") {
  const Rig rig(under_test());
  auto buffer = rig.heap.make_buffer<int>(4, 1);
  auto borrow = buffer.borrow_mut();
  errc_text_of(buffer.try_borrow(), Errc::borrowed);
  borrow.drop();
  CHECK(borrow.empty());
  borrow.drop();
  CHECK(buffer.try_borrow_mut().has_value());
  borrow = buffer.borrow_mut();
  { auto gone = std::move(buffer); }
  CHECK(!rig.all_free());
  borrow.drop();
  CHECK(rig.all_free());
}
