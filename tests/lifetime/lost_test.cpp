// Rule 9: after a sticky error nothing hangs, nothing throws out of a destructor, and memory that the device may still
// touch is not handed out again. A GPU that is lost takes its process with it, and is asked in a program of its own,
// lost_gpu.cpp; here simulated devices are lost.

#include <functional>
#include <vector>

#include "../support/rig.hpp"

using namespace support;

namespace {

using Bytes = PinnedBuffer<std::byte>;

constexpr const char* cause = "Simulation::lose_device was called";

/// The call says device_lost, with the device's own words.
void says_lost(const std::function<void()>& call) { CHECK(has(errc_text(call, Errc::device_lost), cause)); }

/// Whether the thread that runs the call is let go with device_lost when the device is lost while it waits.
void waiter_says_lost(const Rig& rig, const std::function<void()>& call) {
  std::string text;
  std::thread waiter([&] { text = errc_text(call, Errc::device_lost); });
  until_blocked(rig.sim());
  rig.sim().lose_device();
  waiter.join();
  CHECK(has(text, cause));
}

}  // namespace

TEST_CASE("after the loss every call that needs the device says device_lost with the device's words") {
  const Rig rig;
  const Stream stream(rig.device);
  DeviceBuffer<std::byte> target(stream, 4 * KiB);
  auto written = target.async_to_host(stream, rig.heap);
  auto read = rig.heap.make_buffer<std::byte>(4 * KiB);
  read.async_to_device(stream, target.span());
  auto idle = rig.heap.make_buffer<std::byte>(4 * KiB);
  const auto event = stream.record();
  CHECK(!rig.device.lost());
  rig.sim().lose_device();
  says_lost([&] { stream.synchronize(); });
  CHECK(rig.device.lost());
  says_lost([&] { (void)stream.record(); });
  says_lost([&] { stream.wait(event); });
  says_lost([&] { stream.launch_host_function([] {}); });
  says_lost([&] { (void)event.ready(); });
  says_lost([&] { event.synchronize(); });
  says_lost([&] { (void)written.borrow(); });
  says_lost([&] { (void)written.borrow_mut(); });
  says_lost([&] { (void)read.borrow_mut(); });
  says_lost([&] { written.wait(); });
  says_lost([&] { idle.wait(); });
  says_lost([&] { (void)idle.async_to_device(stream); });
  says_lost([&] { idle.async_to_device(stream, target.span()); });
  says_lost([&] { idle.async_from_device(stream, target.span()); });
  says_lost([&] { idle.use_on(stream, Access::device_reads, [](const std::byte*, NativeStream) {}); });
  says_lost([&] { (void)target.async_to_host(stream, rig.heap); });
  says_lost([&] { (void)rig.heap.make_buffer<std::byte>(1); });
  says_lost([&] { rig.heap.drain(); });
  says_lost([&] { const Stream another(rig.device); });
  says_lost([&] { const PinnedArena another(rig.device, {.bytes = 1}); });
  says_lost([&] { const DeviceBuffer<std::byte> another(stream, 1); });
  CHECK(has(errc_text_of(written.try_borrow(), Errc::device_lost), cause));
  CHECK(has(errc_text_of(rig.heap.try_make_buffer_for<std::byte>(1, std::chrono::hours(1)), Errc::device_lost), cause));
  CHECK(has(errc_text_of(rig.heap.drain_for(std::chrono::hours(1)), Errc::device_lost), cause));
}

TEST_CASE("what the device does not use is still the program's on a lost device") {
  const Rig rig;
  const Stream stream(rig.device);
  DeviceBuffer<std::byte> target(stream, 4 * KiB);
  auto idle = rig.heap.make_buffer<std::byte>(4 * KiB, std::byte{1});
  auto read = rig.heap.make_buffer<std::byte>(4 * KiB, std::byte{2});
  read.async_to_device(stream, target.span());
  rig.sim().lose_device();
  fill(idle, 3);
  CHECK(all_are(idle, 3));
  CHECK(all_are(read, 2));  // the device only reads it
  CHECK(rig.heap.stats().in_use >= 8 * KiB);
  CHECK(rig.heap.report().blocks.size() == 1);
  CHECK(rig.arena.contains(idle.unsynchronized_data()));
}

TEST_CASE("who waits when the device is lost goes on and says so") {
  SUBCASE("for a stream") {
    const Rig rig;
    const Stream stream(rig.device);
    stream.launch_host_function([] {});
    waiter_says_lost(rig, [&] { stream.synchronize(); });
  }
  SUBCASE("for an event") {
    const Rig rig;
    const Stream stream(rig.device);
    stream.launch_host_function([] {});
    const auto event = stream.record();
    waiter_says_lost(rig, [&] { event.synchronize(); });
  }
  SUBCASE("in borrow, borrow_mut, wait and drain") {
    const std::function<void(const Rig&, Bytes&)> calls[]{
        [](const Rig&, Bytes& buffer) { (void)buffer.borrow(); },
        [](const Rig&, Bytes& buffer) { (void)buffer.borrow_mut(); },
        [](const Rig&, Bytes& buffer) { buffer.wait(); },
        [](const Rig& rig, Bytes&) { rig.heap.drain(); },
    };
    for (const auto& call : calls) {
      const Rig rig;
      const Stream stream(rig.device);
      DeviceBuffer<std::byte> target(stream, 4 * KiB);
      auto back = target.async_to_host(stream, rig.heap);
      waiter_says_lost(rig, [&] { call(rig, back); });
    }
  }
}

TEST_CASE("a timed call that waits for memory does not go on waiting for a device that is lost") {
  const Rig rig;
  const Stream stream(rig.device);
  DeviceBuffer<std::byte> target(stream, 1);
  const auto whole = rig.arena.capacity();
  rig.heap.make_buffer<std::byte>(whole).async_to_device(stream, target.span(), 0, 1);
  std::string text;
  std::thread waiter([&] {
    text = errc_text_of(rig.heap.try_make_buffer_for<std::byte>(whole, std::chrono::hours(1)), Errc::device_lost);
  });
  until([&] { return rig.heap.stats().waited != 0; });
  rig.sim().lose_device();
  waiter.join();
  CHECK(has(text, cause));
}

TEST_CASE("memory in flight on a device that is lost is not handed out again") {
  const Rig rig;
  auto other = stepped();
  const auto whole = rig.arena.capacity();
  {
    const Stream there(other);
    DeviceBuffer<std::byte> target(there, 1);
    rig.heap.make_buffer<std::byte>(whole / 2).async_to_device(there, target.span(), 0, 1);
    other.simulation().lose_device();
  }
  (void)rig.heap.collect();
  CHECK(rig.heap.stats().in_flight == whole / 2);
  CHECK(!rig.all_free());
  CHECK(rig.heap.try_make_buffer<std::byte>(whole / 2).has_value());  // the rest is as good as ever
  CHECK(!rig.device.lost());
}

TEST_CASE("the loss of one device is said of it, and does not spoil the other") {
  const Rig rig;
  const auto other = stepped();
  const Stream here(rig.device), there(other);
  DeviceBuffer<std::byte> mine(here, 4 * KiB), yours(there, 4 * KiB);
  auto written = rig.heap.make_buffer<std::byte>(4 * KiB);
  written.async_from_device(there, yours.span());
  auto read = rig.heap.make_buffer<std::byte>(4 * KiB, std::byte{4});
  read.async_to_device(there, yours.span());
  const auto event = there.record();
  other.simulation().lose_device();

  says_lost([&] { (void)written.borrow(); });
  says_lost([&] { (void)read.borrow_mut(); });
  says_lost([&] { written.async_to_device(here, mine.span()); });  // would have to come after the write
  says_lost([&] { read.async_from_device(here, mine.span()); });
  says_lost([&] { here.wait(event); });
  says_lost([&] { rig.heap.drain(); });
  CHECK(!rig.device.lost());

  read.async_to_device(here, mine.span());  // two reads need no order
  rig.settle(here);
  CHECK(!rig.device.lost());
  CHECK(device_holds(rig, here, mine, 4));
}

TEST_CASE("dropping everything on a lost device throws nothing and unpins the memory that is idle") {
  for (std::size_t first = 0; first != 6; ++first) {
    const auto device = stepped();
    auto sim = device.simulation();
    std::optional<PinnedArena> arena(std::in_place, device, ArenaOptions{.bytes = 64 * KiB});
    std::optional<PinnedHeap> heap(std::in_place, *arena);
    std::optional<Stream> stream(std::in_place, device);
    std::optional<DeviceBuffer<std::byte>> target(std::in_place, *stream, 4 * KiB);
    std::optional<Bytes> buffer(heap->make_buffer<std::byte>(4 * KiB));
    buffer->async_to_device(*stream, target->span());
    std::optional<Borrow<std::byte>> borrow(buffer->borrow());
    std::optional<Event> event(stream->record());
    sim.lose_device();
    const std::function<void()> drops[]{[&] { arena.reset(); },  [&] { heap.reset(); },
                                        [&] { stream.reset(); }, [&] { target.reset(); },
                                        [&] { buffer.reset(); }, [&] { borrow.reset(), event.reset(); }};
    for (std::size_t i = 0; i != 6; ++i) CHECK_NOTHROW(drops[(first + i) % 6]());
  }
}

TEST_CASE("the error that a destructor met is kept for take_error, once") {
  Rig rig;
  {
    std::optional<Stream> stream(std::in_place, rig.device);
    DeviceBuffer<std::byte> target(*stream, 1);
    rig.heap.make_buffer<std::byte>(1).async_to_device(*stream, target.span());
    rig.sim().fail_call(SimulatedCall::record_event, 1);
    stream.reset();  // its last event is refused, and then taken
  }
  rig.sim().run_all();
  (void)rig.heap.collect();
  CHECK(!rig.device.take_error().has_value());

  {
    auto sim = rig.sim();
    std::optional<Stream> stream(std::in_place, rig.device);
    DeviceBuffer<std::byte> target(*stream, 1);
    sim.begin_capture(*stream);
    stream.reset();
  }
  const auto error = rig.device.take_error();
  REQUIRE(error.has_value());
  CHECK(has(error->what(), "~Stream"));
  CHECK(!rig.device.take_error().has_value());
  CHECK(!rig.device.lost());
}

TEST_CASE("a device that is lost during a capture lets go of what the graph kept") {
  const Rig rig;
  const Stream stream(rig.device);
  DeviceBuffer<std::byte> target(stream, 4 * KiB);
  rig.settle(stream);
  {
    auto buffer = rig.heap.make_buffer<std::byte>(4 * KiB);
    buffer.wait();
    rig.sim().begin_capture(stream);
    buffer.async_to_device(stream, target.span());
  }
  CHECK(rig.heap.stats().in_use >= 4 * KiB);
  rig.sim().lose_device();
  (void)rig.heap.collect();
  CHECK(rig.heap.stats().in_use == 0);
  says_lost([&] { (void)rig.sim().end_capture(stream); });
}

TEST_CASE("a lost device goes when the last of what a graph of it kept goes") {
  std::weak_ptr<detail::DeviceCore> core;
  {
    const Rig rig;
    core = detail::HandleAccess::core(rig.device);
    const Stream stream(rig.device);
    DeviceBuffer<std::byte> target(stream, 4 * KiB);
    rig.settle(stream);
    rig.sim().begin_capture(stream);
    rig.heap.make_buffer<std::byte>(4 * KiB).async_to_device(stream, target.span());
    rig.sim().lose_device();
  }  // the stream's end is the capture's, which is the last to hold the target's memory
  until([&] { return core.expired(); });
}

TEST_CASE("device memory that waits to be freed when the device is lost does not keep its records for ever") {
  std::weak_ptr<detail::DeviceCore> core;
  {
    const auto device = stepped();
    auto sim = device.simulation();
    core = detail::HandleAccess::core(device);
    const Stream stream(device);
    auto memory = std::make_optional<DeviceBuffer<std::byte>>(stream, 4 * KiB);
    sim.begin_capture(stream, SimulatedCaptureMode::relaxed);
    memory.reset();  // thole's own thread is to free it
    sim.run_all();   // all events that there are say so
    // While that thread looks, at the worst moment.
    sim.before_call(SimulatedCall::capture_info, [&] { sim.lose_device(); });
    until([&] { return device.lost(); });
  }
  until([&] { return core.expired(); });
}

TEST_CASE("other devices work on beside one that is lost, and new ones can be made") {
  auto lost = std::make_optional<Rig>();
  const Stream gone(lost->device);
  lost->sim().lose_device();
  says_lost([&] { gone.synchronize(); });
  const Rig rig(under_test());
  const Stream stream(rig.device);
  const auto there = rig.heap.make_buffer<std::byte>(4 * KiB, std::byte{8}).async_to_device(stream);
  const auto back = there.async_to_host(stream, rig.heap);
  rig.settle(stream);
  CHECK(all_are(back, 8));
}
