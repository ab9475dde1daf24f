// Rule 5: use_on runs the program's own work on the memory and records the use, whatever happens. Steps, counts, hooks
// and losses are the simulated device's.

#include <array>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>

#include <thole/graph.hpp>
#include <thole/use_on.hpp>

#include "../support/rig.hpp"

using namespace support;

namespace {

using Bytes = PinnedBuffer<std::byte>;

/// Enqueues a host function through the seam, as a kernel launch would be.
void launch(const Rig& rig, NativeStream stream, void (*function)(void*), void* argument) {
  REQUIRE(rig.backend().launch_host_function(stream, function, argument).ok());
}

void write_8(void* data) { std::memset(data, 8, 4 * KiB); }

}  // namespace

TEST_CASE("use_on hands over the memory and the stream, and returns what the function returns") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  auto buffer = rig.heap.make_buffer<int>(10);
  const auto size = buffer.use_on(stream, Access::device_reads, [&](const int* data, NativeStream native) {
    CHECK(data == buffer.unsynchronized_data());
    CHECK(native == stream.native());
    return std::string("returned");
  });
  CHECK(size == "returned");
  int answer = 0;
  buffer.use_on(stream, Access::device_reads, [&](const int*, NativeStream) -> int& { return answer; }) = 5;
  CHECK(answer == 5);
}

TEST_CASE("what use_on enqueued is a use: the memory is not reused before it is done") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  Gate gate(rig, stream);
  rig.heap.make_buffer<std::byte>(rig.arena.capacity())
      .use_on(stream, Access::device_writes,
              [&](std::byte* data, NativeStream native) { launch(rig, native, write_8, data); });
  CHECK(!rig.all_free());
  gate.open();
  rig.finish(stream);
  CHECK(rig.all_free());
}

TEST_CASE("a read by use_on lets the CPU read; a write makes it wait") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  auto buffer = rig.heap.make_buffer<std::byte>(4 * KiB, std::byte{1});
  const auto work = [&](std::byte* data, NativeStream native) { launch(rig, native, write_8, data); };
  auto gate = std::make_optional<Gate>(rig, stream);
  buffer.use_on(stream, Access::device_reads, [](const std::byte*, NativeStream) {});
  CHECK(buffer.try_borrow().has_value());
  errc_text_of(buffer.try_borrow_mut(), Errc::in_flight);
  buffer.use_on(stream, Access::device_writes, work);
  errc_text_of(buffer.try_borrow(), Errc::in_flight);
  gate->open();
  rig.finish(stream);
  CHECK(all_are(buffer, 8));
  gate.emplace(rig, stream);
  buffer.use_on(stream, Access::device_reads | Access::device_writes, work);
  errc_text_of(buffer.try_borrow(), Errc::in_flight);
}

TEST_CASE("use_on that throws passes the exception on and has recorded the use") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  Gate gate(rig, stream);
  {
    auto buffer = rig.heap.make_buffer<std::byte>(rig.arena.capacity());
    CHECK_THROWS_WITH_AS(buffer.use_on(stream, Access::device_writes,
                                       [&](std::byte* data, NativeStream native) {
                                         launch(rig, native, write_8, data);
                                         throw std::runtime_error("from the function");
                                       }),
                         "from the function", std::runtime_error);
    CHECK(buffer.busy());
    errc_text_of(buffer.try_borrow(), Errc::in_flight);
  }
  CHECK(!rig.all_free());
  gate.open();
  rig.finish(stream);
  CHECK(rig.all_free());
}

TEST_CASE("use_on is ordered by the device after uses on other streams, and they after it") {
  const Rig rig;
  const Stream a(rig.device), b(rig.device);
  DeviceBuffer<std::byte> before(a, 4 * KiB), after(a, 4 * KiB);
  auto buffer = rig.heap.make_buffer<std::byte>(4 * KiB, std::byte{1});
  buffer.async_to_device(a, before.span());
  buffer.use_on(b, Access::device_writes,
                [&](std::byte* data, NativeStream native) { launch(rig, native, write_8, data); });
  buffer.async_to_device(a, after.span());
  rig.sim().step(b, 100);
  CHECK(all_are(buffer.unsynchronized_data(), 4 * KiB, 1));
  rig.sim().run_all();
  CHECK(device_holds(rig, a, before, 1));
  CHECK(device_holds(rig, a, after, 8));
}

TEST_CASE("the event of a use stands right behind it") {
  const Rig rig;
  const Stream stream(rig.device);
  auto buffer = rig.heap.make_buffer<std::byte>(4 * KiB);
  buffer.use_on(stream, Access::device_writes,
                [&](std::byte* data, NativeStream native) { launch(rig, native, write_8, data); });
  for (int i = 0; i != 5; ++i) stream.launch_host_function([] {});
  CHECK(rig.sim().step(stream, 2) == 2);
  CHECK(all_are(buffer, 8));
}

TEST_CASE("what was copied before a long use does not wait for it") {
  const Rig rig;
  const Stream stream(rig.device);
  DeviceBuffer<std::byte> target(stream, 4 * KiB);
  rig.settle(stream);
  rig.heap.make_buffer<std::byte>(4 * KiB).async_to_device(stream, target.span());
  auto buffer = rig.heap.make_buffer<std::byte>(4 * KiB);
  buffer.use_on(stream, Access::device_reads, [&](const std::byte*, NativeStream native) {
    launch(
        rig, native, [](void*) {}, nullptr);
  });
  CHECK(rig.sim().step(stream, 2) == 2);
  CHECK(rig.heap.collect() == 1);
  CHECK(buffer.busy());
}

TEST_CASE("what was copied before a use of several buffers, a list's, or a launch does not wait for that") {
  const Rig rig;
  const Stream stream(rig.device);
  DeviceBuffer<std::byte> target(stream, 4 * KiB);
  const auto buffer = rig.heap.make_buffer<std::byte>(4 * KiB);
  UseList list;
  list.reads(buffer);
  auto exec = capture(stream, [&] { stream.launch_host_function([] {}); }).instantiate();
  const auto start = [&](NativeStream native) {
    launch(
        rig, native, [](void*) {}, nullptr);
  };
  const std::array<std::function<void()>, 3> longs{
      [&] { use_on(stream, reads(buffer), [&](const std::byte*, NativeStream native) { start(native); }); },
      [&] { list.run_on(stream, start); },
      [&] { exec.launch(stream); },
  };
  for (const auto& give_long_work : longs) {
    rig.settle(stream);
    (void)rig.heap.collect();
    rig.heap.make_buffer<std::byte>(4 * KiB).async_to_device(stream, target.span());
    give_long_work();
    CHECK(rig.sim().step(stream, 2) == 2);
    CHECK(rig.heap.collect() == 1);
  }
  rig.settle(stream);
}

TEST_CASE("use_on of an empty buffer runs the function") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  auto buffer = rig.heap.make_buffer<int>(0);
  CHECK(buffer.use_on(stream, Access::device_writes,
                      [&](int* data, NativeStream native) { return data == nullptr && native == stream.native(); }));
}

TEST_CASE("use_on that cannot begin does not run the function") {
  const Rig rig;
  const Stream stream(rig.device);
  auto buffer = rig.heap.make_buffer<int>(10);
  rig.sim().lose_device();
  errc_text([&] { buffer.use_on(stream, Access::device_reads, [](const int*, NativeStream) { FAIL(""); }); },
            Errc::device_lost);
  auto moved = std::move(buffer);
  errc_text([&] { buffer.use_on(stream, Access::device_reads, [](const int*, NativeStream) { FAIL(""); }); },
            Errc::moved_from);
}

// ---- While the function runs, the use is a borrow of its kind.

TEST_CASE("a function of use_on that looks at its buffer does not lose the use") {
  const Rig rig(under_test());
  const Stream stream(rig.device), other(rig.device);
  auto buffer = rig.heap.make_buffer<std::byte>(rig.arena.capacity());
  DeviceBuffer<std::byte> target(other, 16);
  rig.settle(other);
  Gate gate(rig, stream);
  buffer.use_on(stream, Access::device_reads, [&](const std::byte*, NativeStream native) {
    launch(
        rig, native, [](void*) {}, nullptr);
    CHECK(buffer.borrow().size() == buffer.size());
    CHECK(buffer.try_borrow().has_value());
    buffer.async_to_device(other, target.span(), 0, 16);
    rig.finish(other);
    (void)buffer.try_borrow();  // the copy is done: its slot is another stream's to take, the function's own is not
    buffer.async_to_device(other, target.span(), 0, 16);
  });
  rig.finish(other);
  CHECK(buffer.busy());
  errc_text_of(buffer.try_borrow_mut(), Errc::in_flight);
  gate.open();
  rig.finish(stream);
  CHECK(!buffer.busy());
  CHECK(buffer.try_borrow_mut().has_value());
}

TEST_CASE("a function of use_on that drops its buffer leaves the memory in use by the device") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  auto buffer = std::make_unique<PinnedBuffer<std::byte>>(rig.heap.make_buffer<std::byte>(rig.arena.capacity()));
  Gate gate(rig, stream);
  buffer->use_on(stream, Access::device_writes, [&](std::byte* data, NativeStream native) {
    launch(rig, native, write_8, data);
    buffer.reset();
    CHECK(!rig.all_free());
  });
  CHECK(!rig.all_free());
  gate.open();
  rig.finish(stream);
  CHECK(rig.all_free());
}

TEST_CASE("what conflicts with a use that is under way is an error, and the use stays") {
  const Rig rig(under_test());
  const Stream stream(rig.device), other(rig.device);
  auto buffer = rig.heap.make_buffer<std::byte>(16);
  DeviceBuffer<std::byte> target(other, 16);
  Gate gate(rig, stream);
  buffer.use_on(stream, Access::device_reads, [&](const std::byte*, NativeStream) {
    CHECK(has(errc_text([&] { (void)buffer.borrow_mut(); }, Errc::borrowed), "live Borrow"));
    errc_text([&] { buffer.async_from_device(other, target.span()); }, Errc::borrowed);
    errc_text([&] { buffer.use_on(other, Access::device_writes, [](std::byte*, NativeStream) {}); }, Errc::borrowed);
  });
  buffer.use_on(stream, Access::device_writes, [&](std::byte*, NativeStream) {
    CHECK(has(errc_text([&] { (void)buffer.borrow(); }, Errc::borrowed), "live BorrowMut"));
    errc_text([&] { (void)buffer.async_to_device(other); }, Errc::borrowed);
  });
  CHECK(buffer.busy());
  gate.open();
  rig.finish(stream);
  CHECK(buffer.try_borrow_mut().has_value());  // the borrows of both uses have ended with them
}

TEST_CASE("try_use_on returns thole's error instead of throwing it, and what the function returns") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  auto buffer = rig.heap.make_buffer<int>(4);
  const auto read = buffer.try_use_on(stream, Access::device_reads, [](const int*, NativeStream) { return 7; });
  REQUIRE(read);
  CHECK(*read == 7);
  const auto borrow = buffer.borrow();
  errc_text_of(buffer.try_use_on(stream, Access::device_writes, [](int*, NativeStream) {}), Errc::borrowed);
}

TEST_CASE("a use whose work the program enqueues costs one event and two questions about captures") {
  const Rig rig;
  const Stream stream(rig.device);
  const auto buffer = rig.heap.make_buffer<std::byte>(4096);
  const auto use = [&] { buffer.use_on(stream, Access::device_reads, [](const std::byte*, NativeStream) {}); };
  use();
  const auto questions = rig.calls(SimulatedCall::capture_info), events = rig.calls(SimulatedCall::record_event);
  use();
  CHECK(rig.calls(SimulatedCall::capture_info) - questions == 2);
  CHECK(rig.calls(SimulatedCall::record_event) - events == 1);
}

TEST_CASE("work that a capture took is kept by the graph, also where the event behind it is refused") {
  const Rig rig;
  const Stream stream(rig.device);
  void* const native = stream.native();
  {
    const auto buffer = rig.heap.make_buffer<std::byte>(rig.arena.capacity());
    rig.sim().fail_call(SimulatedCall::record_event, 1);
    // As another thread may do at any moment.
    rig.sim().before_call(SimulatedCall::record_event,
                          [&] { REQUIRE(rig.backend().begin_capture(native, detail::CaptureMode::relaxed).ok()); });
    buffer.use_on(stream, Access::device_reads, [](const std::byte*, NativeStream) {});
  }
  void* graph = nullptr;
  REQUIRE(rig.backend().end_capture(native, &graph).ok());
  rig.settle(stream);
  CHECK(!rig.all_free());
  REQUIRE(rig.backend().destroy_graph(graph).ok());
  rig.settle(stream);
  until([&] { return rig.all_free(); });
}
