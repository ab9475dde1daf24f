// While one thread waits for room in a stuck stream's full queue, CUDA makes others wait that make or destroy events
// and streams, or pin memory. thole does none of that for work in other streams, which goes on.

#include <optional>
#include <vector>

#include "../support/rig.hpp"

using namespace support;

namespace {

constexpr std::size_t bytes = 4 * KiB;
constexpr int more_than_fit = 5000;

Device with_short_queues() {
  Device device = under_test();
  if (device.backend() != thole::Backend::simulated) return device;
  return Device::simulated({.stepped = true, .queue_limit = 200});
}

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

TEST_CASE("who makes or drops a stream beside a full queue waits for room there at most, and the new one then works") {
  const Rig rig(with_short_queues());
  const Stream other(rig.device);
  rig.settle(other);
  std::optional<Stream> made, gone(std::in_place, rig.device);
  std::thread maker, dropper;
  {
    const FullQueue full(rig, other);
    maker = std::thread([&] { made.emplace(rig.device); });
    dropper = std::thread([&] { gone.reset(); });
    if (rig.simulated()) until([&] { return rig.sim().blocked_callers() >= 2; });
  }
  maker.join();
  dropper.join();
  auto buffer = rig.heap.make_buffer<std::byte>(bytes, std::byte{6});
  auto there = buffer.async_to_device(*made);
  rig.settle(*made);
  CHECK(device_holds(rig, *made, there, 6));
}
