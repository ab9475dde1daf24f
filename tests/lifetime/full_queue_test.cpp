// While one thread waits for room in a stuck stream's full queue, CUDA makes others wait that make or destroy events
// and streams, or pin memory. thole does none of that for work in other streams, which goes on.

#include <optional>
#include <vector>

#include <thole/graph.hpp>

#include "../support/rig.hpp"

using namespace support;
using namespace std::chrono_literals;

namespace {

constexpr std::size_t bytes = 4 * KiB;
constexpr int more_than_fit = 5000;

Device with_queues_of(std::size_t places) {
  Device device = under_test();
  if (device.backend() != thole::Backend::simulated) return device;
  return Device::simulated({.stepped = true, .queue_limit = places});
}
Device with_short_queues() { return with_queues_of(200); }

/// A stream that is stuck, and a thread that waits for room in its queue until it is opened.
class FullQueue {
 public:
  /// `other` has nothing to do.
  FullQueue(const Rig& rig, const StreamRef& other)
      : rig_(rig), stuck_(rig.device), target_(stuck_, bytes), buffer_(rig.heap.make_buffer<std::byte>(bytes)) {
    rig.settle(stuck_);
    gate_.emplace(rig, stuck_);
    giver_ = std::thread([&] {
      for (; given_ != more_than_fit; ++given_) buffer_.async_to_device(stuck_, target_.span());
    });
    if (rig.simulated()) {
      until([&] { return rig.sim().blocked_callers() >= 1; });  // a thread of thole's may wait behind it
      return;
    }
    // A GPU does not say so: there the thread comes no further while this one finds very often that `other` is idle.
    constexpr int very_often = 20'000;
    for (int quiet = 0, last = 0; quiet != very_often; ++quiet) {
      rig.finish(other);
      if (const int now = given_; now != last || now == 0) {
        last = now;
        quiet = 0;
      }
    }
  }
  FullQueue(const FullQueue&) = delete;
  FullQueue& operator=(const FullQueue&) = delete;
  ~FullQueue() {
    CHECK(given_ < more_than_fit);
    gate_->open();
    if (rig_.simulated())
      while (given_ != more_than_fit) rig_.sim().run_all();
    giver_.join();
    rig_.settle(stuck_);
  }

 private:
  const Rig& rig_;
  const Stream stuck_;
  DeviceBuffer<std::byte> target_;
  PinnedBuffer<std::byte> buffer_;
  std::optional<Gate> gate_;
  std::atomic<int> given_{0};
  std::thread giver_;
};

}  // namespace

TEST_CASE("beside a full queue other streams copy, are waited for, and give buffers back") {
  const Rig rig(with_short_queues());
  const Stream other(rig.device);
  DeviceBuffer<std::byte> there(other, bytes);
  rig.settle(other);
  const FullQueue full(rig, other);
  for (int round = 0; round != 500; ++round) {
    const auto value = std::byte(round % 100);
    auto buffer = rig.heap.make_buffer<std::byte>(bytes, value);
    buffer.async_to_device(other, there.span());
    if (round % 50 != 0) {
      if (round % 10 == 0) rig.finish(other);
      continue;
    }
    auto back = there.async_to_host(other, rig.heap);
    const Event event = other.record();
    rig.settle(other);
    CHECK(event.ready());
    event.synchronize();
    CHECK(back.borrow()[bytes - 1] == value);
    (void)buffer.borrow_mut();
    (void)rig.heap.collect();
  }
}

TEST_CASE("beside a full queue a second stream that stands still leaves others the events that they need") {
  const Rig rig(with_queues_of(1000));
  const Stream second(rig.device), other(rig.device);
  auto buffer = rig.heap.make_buffer<std::byte>(bytes, std::byte{4});
  DeviceBuffer<std::byte> there(other, bytes);
  auto used = rig.heap.make_buffer<std::byte>(bytes);
  rig.settle(other);
  rig.settle(second);
  // The gate first, which launches a host function, and opened first: no host function runs while another one waits.
  std::optional<FullQueue> full;
  const Gate gate(rig, second);
  full.emplace(rig, other);
  for (int i = 0; i != 400; ++i) use_on(second, reads(used), [](const std::byte*, NativeStream) {});
  for (int round = 0; round != 20; ++round) {
    buffer.async_to_device(other, there.span());
    const Event event = other.record();
    rig.settle(other);
    CHECK(event.ready());
  }
}

TEST_CASE("beside a full queue a stream that was never used copies and is waited for") {
  const Rig rig(with_short_queues());
  const Stream other(rig.device), fresh(rig.device);
  rig.settle(other);
  const FullQueue full(rig, other);
  auto buffer = rig.heap.make_buffer<std::byte>(bytes, std::byte{4});
  auto there = buffer.async_to_device(fresh);
  const auto back = there.async_to_host(fresh, rig.heap);
  const Event event = fresh.record();
  other.wait(event);
  rig.settle(fresh);
  rig.settle(other);
  CHECK(event.ready());
  CHECK(all_are(back, 4));
}

TEST_CASE("beside a full queue each of more streams than there are events made ahead does its first work") {
  const Rig rig(with_short_queues());
  const Stream other(rig.device);
  rig.settle(other);
  std::vector<Stream> streams;
  for (int i = 0; i != 200; ++i) streams.emplace_back(rig.device);
  const FullQueue full(rig, other);
  std::vector<Event> events;
  for (const Stream& stream : streams) events.push_back(stream.record());
  for (const Stream& stream : streams) rig.finish(stream);
  for (const Event& event : events) CHECK(event.ready());
}

TEST_CASE("beside a full queue many events of other streams live at once") {
  const Rig rig(with_short_queues());
  const Stream other(rig.device);
  rig.settle(other);
  const FullQueue full(rig, other);
  std::vector<Event> events;
  for (int i = 0; i != 60; ++i) events.push_back(other.record());
  rig.finish(other);
  for (const Event& event : events) CHECK(event.ready());
}

TEST_CASE("beside a full queue handles are dropped, and threads end that had buffers") {
  const Rig rig(with_short_queues());
  const Stream other(rig.device);
  auto memory = std::make_optional<DeviceBuffer<std::byte>>(other, bytes);
  rig.settle(other);
  const FullQueue full(rig, other);
  std::thread([&] {
    auto buffer = rig.heap.make_buffer<std::byte>(bytes);
    buffer.async_to_device(other, memory->span());
    Event event = other.record();
  }).join();
  memory.reset();
  rig.settle(other);
  (void)rig.heap.collect();
  CHECK(!Device(rig.device).take_error());
}

TEST_CASE("beside a full queue streams, events and executables are dropped without waiting") {
  const Rig rig(with_short_queues());
  const Stream other(rig.device);
  rig.settle(other);
  auto stream = std::make_optional<Stream>(rig.device), used = std::make_optional<Stream>(rig.device);
  auto buffer = rig.heap.make_buffer<std::byte>(bytes);
  auto memory = std::make_optional<DeviceBuffer<std::byte>>(*used, bytes);
  rig.settle(*used);
  auto graph = std::make_optional(capture(other, [&] { buffer.async_to_device(other, memory->span()); }));
  auto exec = std::make_optional(graph->instantiate());
  auto timed = std::make_optional(other.record({.timing = true}));
  rig.settle(other);
  const FullQueue full(rig, other);
  buffer.async_to_device(*used, memory->span());
  timed.reset();
  exec.reset();
  graph.reset();
  stream.reset();
  used.reset();
  memory.reset();
  (void)rig.heap.collect();
  CHECK(!Device(rig.device).take_error());
}

TEST_CASE(
    "a stream whose own queue is full is waited for no longer than asked, and dropped without waiting with what it "
    "made") {
  const Rig rig(with_short_queues());
  {
    auto stuck = std::make_optional<Stream>(rig.device);
    auto memory = std::make_optional<DeviceBuffer<std::byte>>(*stuck, bytes),
         more = std::make_optional<DeviceBuffer<std::byte>>(*stuck, bytes);
    auto buffer = std::make_optional(rig.heap.make_buffer<std::byte>(bytes, std::byte{5}));
    rig.settle(*stuck);
    const Stream gated(rig.device);
    Gate gate(rig, gated);
    stuck->wait(gated.record());
    // As many as are sure to fit, and so many events that the next could have to wait.
    for (int i = 0; i != 60; ++i) {
      buffer->async_to_device(*stuck, memory->span());
      if (i % 2 == 0) (void)stuck->record();
    }
    if (rig.simulated()) {  // exactly full
      const auto limit = std::size_t{200};
      while (rig.sim().pending(*stuck) < limit) buffer->async_to_device(*stuck, more->span());
    }
    errc_text_of(buffer->try_borrow_mut(), Errc::in_flight);  // asks, and gives the stream nothing
    errc_text_of(stuck->synchronize_for(0ns), Errc::timed_out);
    memory.reset();
    buffer.reset();
    stuck.reset();
    more.reset();
    (void)rig.heap.collect();
    CHECK(!rig.all_free());
    if (rig.simulated()) CHECK(rig.sim().device_bytes() == 2 * bytes);
    gate.open();
  }
  if (rig.simulated()) {
    rig.until_device_memory_is_free();
  }
  rig.heap.drain();
  CHECK(rig.all_free());
  CHECK(!Device(rig.device).take_error());
}

TEST_CASE("beside a full queue who wants to be told of an event is told") {
  const Rig rig(with_short_queues());
  const Stream other(rig.device);
  rig.settle(other);
  const FullQueue full(rig, other);
  std::atomic<bool> told{false};
  const Event event = other.record();
  event.on_ready([&](const auto&...) { told = true; });
  rig.settle(other);
  until([&] { return told.load(); });
}

TEST_CASE("who makes a stream beside a full queue waits for room there at most, and the new one then works") {
  const Rig rig(with_short_queues());
  const Stream other(rig.device);
  rig.settle(other);
  std::optional<Stream> made;
  std::thread maker;
  {
    const FullQueue full(rig, other);
    maker = std::thread([&] { made.emplace(rig.device); });
    if (rig.simulated()) until([&] { return rig.sim().blocked_callers() >= 2; });
  }
  maker.join();
  auto buffer = rig.heap.make_buffer<std::byte>(bytes, std::byte{6});
  auto there = buffer.async_to_device(*made);
  rig.settle(*made);
  CHECK(device_holds(rig, *made, there, 6));
}

namespace {

constexpr std::size_t queue_limit = 1000;

/// With raw work, behind which nothing else fits.
void fill_the_rest(const Rig& rig, const StreamRef& stuck) {
  void* const native = detail::HandleAccess::raw(stuck, "test");
  while (rig.sim().pending(stuck) < queue_limit)
    REQUIRE(rig.backend()
                .launch_host_function(
                    native, [](void*) {}, nullptr)
                .ok());
}

}  // namespace

// Simulated alone, which says how much is in a queue.
TEST_CASE("a stream whose own queue few or many pieces of work have filled holds up no wait with an end, and no drop") {
  const Rig rig(Device::simulated({.stepped = true, .queue_limit = queue_limit}), {.bytes = 1 * MiB});
  enum { copies, two_launches, new_memory, behind_others, waits, functions } of = copies;
  SUBCASE("many copies") {}
  SUBCASE("two launches of a graph") { of = two_launches; }
  SUBCASE("device memory that is made, filled and dropped") { of = new_memory; }
  SUBCASE("copies that each wait for another stream") { of = behind_others; }
  SUBCASE("waits") { of = waits; }
  SUBCASE("host functions") { of = functions; }
  const Stream gated(rig.device);
  std::optional<Stream> stuck(rig.device);
  auto memory = std::make_optional<DeviceBuffer<std::byte>>(*stuck, bytes);
  auto buffer = std::make_optional(rig.heap.make_buffer<std::byte>(bytes, std::byte{5}));
  void* const raw = rig.heap.allocate(bytes);
  rig.settle(*stuck);
  std::optional<GraphExec> exec;
  if (of == two_launches)
    exec = capture(*stuck, [&] {
             for (int i = 0; i != 490; ++i) buffer->async_to_device(*stuck, memory->span());
           }).instantiate();
  Gate gate(rig, gated);
  const Event opened = gated.record();
  std::optional<DeviceBuffer<std::byte>> used_by_gated(std::in_place, gated, bytes);
  stuck->wait(opened);
  buffer->async_to_device(*stuck, memory->span());
  for (int i = 0; i != 2 && exec; ++i) exec->launch(*stuck);
  while (rig.sim().pending(*stuck) + 8 < queue_limit) {
    if (of == new_memory)
      (void)buffer->async_to_device(*stuck);
    else if (of == behind_others)
      buffer->async_to_device(*stuck, used_by_gated->span());
    else if (of == waits)
      stuck->wait(opened);
    else if (of == functions)
      stuck->launch_host_function([] {});
    else
      buffer->async_to_device(*stuck, memory->span());
  }
  fill_the_rest(rig, *stuck);

  errc_text_of(buffer->try_borrow_mut_for(1ms), Errc::timed_out);
  errc_text_of(buffer->wait_for(1ms), Errc::timed_out);
  errc_text_of(rig.heap.drain_for(1ms), Errc::timed_out);
  errc_text_of(stuck->synchronize_for(1ms), Errc::timed_out);
  CHECK(rig.heap.deallocate(raw, *stuck));
  memory.reset();
  buffer.reset();
  (void)rig.heap.collect();
  errc_text_of(rig.heap.try_make_buffer<std::byte>(1 * MiB), Errc::out_of_memory);
  errc_text_of(rig.heap.try_make_buffer_for<std::byte>(1 * MiB, 1ms), Errc::timed_out);
  exec.reset();
  stuck.reset();
  CHECK(!rig.all_free());
  used_by_gated.reset();
  gate.open();
  rig.until_device_memory_is_free();
  rig.heap.drain();
  CHECK(rig.all_free());
  CHECK(!Device(rig.device).take_error());
}

TEST_CASE("a stream whose own queue host functions or waits alone have filled is dropped, with what is made on it") {
  const Rig rig(Device::simulated({.stepped = true, .queue_limit = queue_limit}));
  bool functions = false;
  SUBCASE("waits") {}
  SUBCASE("host functions") { functions = true; }
  const Stream gated(rig.device);
  std::optional<Stream> stuck(rig.device);
  auto memory = std::make_optional<DeviceBuffer<std::byte>>(*stuck, bytes);
  rig.settle(*stuck);
  stuck->synchronize();  // nothing of it is in flight
  Gate gate(rig, gated);
  const Event opened = gated.record();
  stuck->wait(opened);
  while (rig.sim().pending(*stuck) + 8 < queue_limit) {
    if (functions)
      stuck->launch_host_function([] {});
    else
      stuck->wait(opened);
  }
  fill_the_rest(rig, *stuck);
  memory.reset();
  (void)rig.heap.collect();
  stuck.reset();
  gate.open();
  rig.until_device_memory_is_free();
  CHECK(!Device(rig.device).take_error());
}

TEST_CASE("an event of a capture that is dropped beside a full queue holds up nobody who uses its stream") {
  const Rig rig;
  const Stream stream(rig.device);
  DeviceBuffer<std::byte> memory(stream, bytes);
  auto buffer = rig.heap.make_buffer<std::byte>(bytes);
  rig.settle(stream);
  std::optional<Event> captured;
  {
    const Graph graph = capture(stream, [&] { captured = stream.record(); });
  }
  buffer.async_to_device(stream, memory.span());
  bool others_went_on = false;
  rig.sim().before_call(SimulatedCall::destroy_event, [&] {
    std::thread([&] {
      errc_text_of(buffer.try_borrow_mut(), Errc::in_flight);
      (void)stream.record();
      (void)rig.heap.collect();
      others_went_on = true;
    }).join();
  });
  captured.reset();
  CHECK(others_went_on);
}
