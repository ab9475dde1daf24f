// A DeviceBuffer may be dropped while any stream uses it: it is freed after the last use, and no stream waits for that.
// Counted calls, small device memory and refusals are the simulated device's.

#include <vector>

#include "../support/gpu_gate.hpp"
#include "../support/rig.hpp"

using namespace support;

namespace {

constexpr std::size_t bytes = 4 * KiB;

/// What can be freed is freed.
void free_all(const Rig& rig) {
  (void)rig.heap.collect();
  rig.sim().run_all();
}

/// Whether all comes back; thole's own thread may have it in hand at the moment.
bool all_freed(const Rig& rig) {
  rig.until_device_memory_is_free();
  return true;
}

std::size_t calls_that_order(const Rig& rig) {
  return rig.calls(SimulatedCall::wait_event) + rig.calls(SimulatedCall::free_device);
}

}  // namespace

TEST_CASE("device memory that another stream uses is freed after that use, and no stream waits for it") {
  const Rig rig;
  const Stream made_on(rig.device), stuck(rig.device);
  auto memory = std::make_unique<DeviceBuffer<std::byte>>(made_on, bytes);
  rig.sim().run_all();
  Gate gate(rig, stuck);
  use_on(stuck, writes(*memory), [](std::byte*, NativeStream) {});
  const auto before = calls_that_order(rig);
  memory.reset();
  CHECK(calls_that_order(rig) == before);
  bool ran = false;
  made_on.launch_host_function([&] { ran = true; });
  free_all(rig);
  CHECK(ran);
  CHECK(rig.sim().device_bytes() == bytes);
  gate.open();
  CHECK(all_freed(rig));
}

TEST_CASE("device memory is in use until the stream that uses it has done so, and other streams go on meanwhile") {
  constexpr std::size_t large = 64 * MiB;
  constexpr int very_often = 1'000'000;
  const Rig rig(under_test());
  if (!has_what_it_needs(rig)) return;
  const Stream made_on(rig.device), stuck(rig.device);
  const DeviceBuffer<std::byte> any(made_on, bytes);
  rig.settle(made_on);
  const auto before = used_device_bytes(rig, any);
  auto memory = std::make_unique<DeviceBuffer<std::byte>>(made_on, large);
  const auto target = rig.heap.make_buffer<std::byte>(bytes, std::byte{1});
  rig.settle(made_on);
  Gate gate(rig, stuck);
  target.async_to_device(stuck, memory->span().subspan(0, bytes));
  memory.reset();
  // Asked, and not waited for: where this fails it would wait for ever.
  const Event event = made_on.record();
  bool done = false;
  for (int i = 0; i != very_often && !done; ++i) {
    if (rig.simulated()) rig.sim().run_all();
    done = event.ready();
  }
  CHECK(done);
  (void)rig.heap.collect();
  if (rig.simulated()) rig.sim().run_all();
  CHECK(used_device_bytes(rig, any) >= before + large);
  gate.open();
  rig.settle(stuck);
  until([&] {
    (void)rig.heap.collect();
    rig.settle(made_on);
    return used_device_bytes(rig, any) <= before;
  });
}

TEST_CASE("what streams are still to read of dropped device memory is overwritten by nobody who gets some meanwhile") {
  for (const bool by_the_program : {false, true}) {  // itself, past thole, on the stream that made the memory
    CAPTURE(by_the_program);
    const Rig rig(under_test());
    const Stream made_on(rig.device), held(rig.device), second(rig.device), other(rig.device);
    const auto source = rig.heap.make_buffer<std::byte>(bytes, std::byte{7});
    const auto overwrite = rig.heap.make_buffer<std::byte>(bytes, std::byte{1});
    auto memory = std::make_unique<DeviceBuffer<std::byte>>(source.async_to_device(made_on));
    rig.settle(made_on);
    std::vector<PinnedBuffer<std::byte>> read;
    Gate gate(rig, by_the_program ? made_on : held);
    if (by_the_program) {
      read.push_back(rig.heap.make_buffer<std::byte>(bytes, std::byte{0}));
      REQUIRE(rig.backend()
                  .copy(read[0].unsynchronized_data(), memory->span().native(), bytes, detail::CopyKind::device_to_host,
                        made_on.native())
                  .ok());
    } else {
      second.wait(held.record());
      for (const Stream* stream : {&held, &second}) read.push_back(memory->async_to_host(*stream, rig.heap));
    }
    memory.reset();
    std::vector<DeviceBuffer<std::byte>> others;
    for (int i = 0; i != 50; ++i) {
      if (rig.simulated()) rig.sim().run_all();
      (void)rig.heap.collect();
      others.push_back(overwrite.async_to_device(other));
    }
    rig.settle(other);
    gate.open();
    for (const Stream* stream : {&made_on, &held, &second}) rig.settle(*stream);
    for (const auto& buffer : read) CHECK(all_are(buffer, 7));
  }
}

TEST_CASE("device memory that several streams use is freed after the last of them, whichever that is") {
  for (const bool first_last : {true, false}) {
    const Rig rig;
    const Stream made_on(rig.device), first(rig.device), second(rig.device);
    auto memory = std::make_unique<DeviceBuffer<std::byte>>(made_on, bytes);
    rig.sim().run_all();
    Gate one(rig, first), two(rig, second);
    use_on(first, reads(*memory), [](const std::byte*, NativeStream) {});
    use_on(second, reads(*memory), [](const std::byte*, NativeStream) {});
    memory.reset();
    (first_last ? two : one).open();
    free_all(rig);
    CHECK(rig.sim().device_bytes() == bytes);
    (first_last ? one : two).open();
    CHECK(all_freed(rig));
  }
}

TEST_CASE("what the program itself enqueued on the stream that made it comes before the free, too") {
  const Rig rig;
  const Stream made_on(rig.device), other(rig.device);
  auto memory = std::make_unique<DeviceBuffer<std::byte>>(made_on, bytes);
  rig.sim().run_all();
  use_on(other, reads(*memory), [](const std::byte*, NativeStream) {});
  Gate gate(rig, made_on);
  REQUIRE(rig.backend()
              .launch_host_function(
                  made_on.native(), [](void*) {}, nullptr)
              .ok());
  memory.reset();
  free_all(rig);
  CHECK(rig.sim().device_bytes() == bytes);
  gate.open();
  CHECK(all_freed(rig));
}

TEST_CASE("a search over pages that a loading stream made and two others read costs no more than by hand") {
  // By hand: an allocation, a copy and a free for each page; an event behind the copies, and a wait for it and an event
  // behind the work on each of the two.
  constexpr std::size_t pages = 100;
  const Rig rig;
  const Stream loading(rig.device);
  const Stream searching[] = {Stream(rig.device), Stream(rig.device)};
  const auto source = rig.heap.make_buffer<std::byte>(bytes);
  (void)loading.record();
  rig.sim().run_all();
  const auto ordering = [&] { return rig.calls(SimulatedCall::record_event) + rig.calls(SimulatedCall::wait_event); };
  std::vector<DeviceBuffer<std::byte>> memory;
  for (std::size_t i = 0; i != pages; ++i) memory.push_back(source.async_to_device(loading));
  // thole's events behind the copies: one for each 16 of them, where nobody asks.
  const auto before = ordering();
  UseList uses;
  for (const auto& page : memory) uses.reads(page);
  for (const Stream& stream : searching) uses.run_on(stream, [](NativeStream) {});
  uses.clear();
  memory.clear();
  CHECK(ordering() - before <= 5);
  rig.sim().run_all();
  CHECK(all_freed(rig));
  CHECK(ordering() - before <= 5);
  CHECK(rig.calls(SimulatedCall::free_device) == pages);
}

TEST_CASE("where memory is short, an allocation takes what waits, and its stream comes after the uses of that") {
  const auto device = Device::simulated({.device_bytes = 3 * bytes / 2, .stepped = true});
  const Rig rig(device);
  const Stream made_on(rig.device), other(rig.device);
  auto memory = std::make_unique<DeviceBuffer<std::byte>>(made_on, bytes);
  rig.sim().run_all();
  bool ran = false;
  use_on(other, writes(*memory), [&](std::byte*, NativeStream native) {
    const auto run = [](void* flag) { *static_cast<bool*>(flag) = true; };
    REQUIRE(rig.backend().launch_host_function(native, run, &ran).ok());
  });
  memory.reset();
  const DeviceBuffer<std::byte> next(made_on, bytes);
  bool after = false;
  made_on.launch_host_function([&] { after = ran; });
  rig.sim().step(made_on, 10);
  rig.sim().run_all();
  CHECK(after);
  CHECK(rig.sim().device_bytes() == bytes);
}

TEST_CASE("an allocation waits for memory that another thread is just giving back, and is not refused") {
  const Rig rig(Device::simulated({.device_bytes = 3 * bytes / 2, .stepped = true}));
  const Stream made_on(rig.device), other(rig.device);
  auto memory = std::make_unique<DeviceBuffer<std::byte>>(made_on, bytes);
  use_on(other, writes(*memory), [](std::byte*, NativeStream) {});
  std::atomic<bool> in_hand{false}, refused{false};
  // In a thread that collects: the one below, or thole's own.
  rig.sim().before_call(SimulatedCall::free_device, [&] {
    in_hand = true;
    until([&] { return refused.load(); });
  });
  rig.sim().after_call(SimulatedCall::free_device, [&] { rig.sim().run_all(); });
  memory.reset();
  std::thread collecting([&] {
    until([&] {
      rig.sim().run_all();
      (void)rig.heap.collect();
      return in_hand.load();
    });
  });
  until([&] { return in_hand.load(); });
  rig.sim().after_call(SimulatedCall::allocate_device, [&] { refused = true; });
  CHECK(DeviceBuffer<std::byte>::try_make(made_on, bytes).has_value());
  refused = true;
  collecting.join();
}

TEST_CASE("an allocation asks for a few that wait, however many there are") {
  const Rig rig;
  const Stream made_on(rig.device), stuck(rig.device);
  const Gate gate(rig, stuck);
  for (int i = 0; i != 200; ++i) {
    DeviceBuffer<std::byte> memory(made_on, 16);
    use_on(stuck, writes(memory), [](std::byte*, NativeStream) {});
  }
  rig.sim().run_all();
  // thole's own thread asks for all, now and then: one allocation that it does not fall into is enough.
  std::size_t least = 200;
  for (int i = 0; i != 1'000 && least > 8; ++i) {
    const auto before = rig.calls(SimulatedCall::query_event);
    const DeviceBuffer<std::byte> memory(made_on, 16);
    least = std::min(least, rig.calls(SimulatedCall::query_event) - before);
  }
  CHECK(least <= 8);
}

TEST_CASE(
    "device memory whose free a driver refuses once is freed all the same, and the error is kept if it is refused "
    "again") {
  for (const bool again : {false, true}) {
    const Rig rig;
    const Stream stream(rig.device);
    std::optional<DeviceBuffer<std::byte>> memory(std::in_place, stream, bytes);
    rig.settle(stream);
    rig.sim().fail_call(SimulatedCall::free_device, 1);
    if (again)
      rig.sim().after_call(SimulatedCall::free_device, [&] { rig.sim().fail_call(SimulatedCall::free_device, 1); });
    memory.reset();
    std::optional<Error> error;
    until([&] {
      rig.settle(stream);
      (void)rig.heap.collect();
      error = Device(rig.device).take_error();
      return again ? error.has_value() : rig.sim().device_bytes() == 0;
    });
    CHECK(error.has_value() == again);
  }
}
