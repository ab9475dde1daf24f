// Graphs that say of each buffer when a launch has written it: never before it has, however often the graph is
// launched, and long before the launch is done. It is stepped here, on the simulated device, so that nothing but the
// write is done; standing_launch_test.cpp asks it of both.

#include <optional>
#include <utility>

#include <thole/graph.hpp>

#include "../support/rig.hpp"

using namespace support;

namespace {

using Bytes = PinnedBuffer<std::byte>;
constexpr std::size_t bytes = 4 * KiB;

/// A graph that writes two buffers with a long operation between: copy, event, function, copy, event.
struct Loop {
  Rig rig;
  Stream stream{rig.device};
  DeviceBuffer<std::byte> memory{stream, bytes};
  Bytes in = rig.heap.make_buffer<std::byte>(bytes, std::byte{1});
  Bytes first = rig.heap.make_buffer<std::byte>(bytes, std::byte{0});
  Bytes second = rig.heap.make_buffer<std::byte>(bytes, std::byte{0});
  std::optional<Graph> graph;
  std::optional<GraphExec> exec;
  std::shared_ptr<std::atomic<bool>> long_work_done = std::make_shared<std::atomic<bool>>(false);

  explicit Loop(Device device = stepped(), CaptureOptions options = {.completion = each_write})
      : rig(std::move(device)) {
    graph = capture(
        stream,
        [this] {
          in.async_to_device(stream, memory.span());
          first.async_from_device(stream, memory.span());
          (void)rig.backend().launch_host_function(
              stream.native(), [](void*) {}, nullptr);
          second.async_from_device(stream, memory.span());
        },
        options);
    exec = graph->instantiate();
    rig.settle(stream);
  }
  /// Operations of a launch up to the event behind the first write: the copies in and out, and the event.
  static constexpr std::size_t until_first = 3;
  std::size_t step(std::size_t operations, const StreamRef& on) const { return rig.sim().step(on, operations); }
  std::size_t step(std::size_t operations) const { return step(operations, stream); }
};

bool holds(const Result<Borrow<std::byte>>& borrow, int value) {
  return borrow && all_are(borrow->data(), borrow->size(), value);
}

}  // namespace

TEST_CASE("of two buffers that a graph writes, the first can be read while the launch goes on, and not earlier") {
  Loop loop;
  for (int round = 1; round != 5; ++round) {
    fill(loop.in, round);
    loop.exec->launch(loop.stream);
    CHECK(loop.step(Loop::until_first - 1) == Loop::until_first - 1);
    errc_text_of(loop.first.try_borrow(), Errc::in_flight);  // the copy is done, and nothing says so yet
    CHECK(loop.step(1) == 1);
    CHECK(holds(loop.first.try_borrow(), round));
    CHECK(loop.rig.sim().pending(loop.stream) > 0);
    errc_text_of(loop.second.try_borrow(), Errc::in_flight);
    errc_text_of(loop.first.try_borrow_mut(), Errc::in_flight);
    CHECK(loop.first.busy());
    CHECK(loop.in.try_borrow().has_value());
    loop.rig.sim().run_all();
    CHECK(holds(loop.second.try_borrow(), round));
    CHECK(loop.first.try_borrow_mut().has_value());
    CHECK(!loop.second.busy());
  }
}

TEST_CASE("without that option the launch as a whole is waited for, and a launch records one event") {
  Loop loop(stepped(), {});
  loop.exec->launch(loop.stream);
  const auto operations = loop.rig.sim().pending(loop.stream);
  CHECK(operations == 5);  // three copies, the function, the launch's event
  CHECK(loop.step(operations - 1) == operations - 1);
  errc_text_of(loop.first.try_borrow(), Errc::in_flight);
  CHECK(loop.step(1) == 1);
  CHECK(loop.first.try_borrow().has_value());
}

TEST_CASE("a borrow waits for its own write, on every device, with what that launch wrote") {
  Loop loop(Device::best());
  for (int round = 1; round != 50; ++round) {
    fill(loop.in, round);
    loop.exec->launch(loop.stream);
    CHECK(all_are(loop.first, round));
    CHECK(all_are(loop.second, round));
    CHECK(holds(loop.first.try_borrow_for(forever), round));
  }
}

TEST_CASE("a borrow that waits ends with the write, and the launch goes on") {
  Loop loop;
  fill(loop.in, 9);
  loop.exec->launch(loop.stream);
  std::atomic<bool> read{false};
  std::thread reader([&] { read = all_are(loop.first, 9); });
  until_blocked(loop.rig.sim());
  loop.step(Loop::until_first - 1);
  CHECK(loop.rig.sim().blocked_callers() == 1);
  loop.step(1);
  reader.join();
  CHECK(read);
  CHECK(loop.rig.sim().pending(loop.stream) > 0);
}

TEST_CASE("a buffer that is borrowed early forbids the next launch, as any borrow does") {
  Loop loop;
  loop.exec->launch(loop.stream);
  loop.step(Loop::until_first);
  auto borrow = loop.first.try_borrow();
  REQUIRE(borrow.has_value());
  errc_text_of(loop.exec->try_launch(loop.stream), Errc::borrowed);
  borrow->drop();
  CHECK(loop.exec->try_launch(loop.stream).has_value());
  errc_text_of(loop.first.try_borrow(), Errc::in_flight);  // of this launch now
  loop.rig.sim().run_all();
  CHECK(loop.first.try_borrow().has_value());
}

TEST_CASE("where a graph is launched again before anybody asks, the answer is that of the last launch") {
  for (const bool same_stream : {true, false}) {
    Loop loop;
    const Stream other(loop.rig.device);
    const Stream& then = same_stream ? loop.stream : other;
    fill(loop.in, 1);
    loop.exec->launch(loop.stream);
    loop.step(Loop::until_first);
    CHECK(loop.first.try_borrow().has_value());
    loop.exec->launch(then);
    if (!same_stream) {
      CHECK(loop.step(100, other) == 0);  // it comes after the launch before, on whatever stream
      loop.rig.sim().step(loop.stream, 100);
    } else {
      loop.step(3);  // the rest of the first launch: the function, a copy, its event
    }
    errc_text_of(loop.first.try_borrow(), Errc::in_flight);
    while (!loop.first.try_borrow()) REQUIRE(loop.step(1, then) == 1);
    CHECK(loop.rig.sim().pending(then) >= 3);  // the function, the copy and the event behind it are to come
    loop.rig.sim().run_all();
    CHECK(loop.first.try_borrow_mut().has_value());
  }
}

TEST_CASE("two executables of one graph have the same events, and each launch counts") {
  Loop loop;
  auto second = loop.graph->instantiate();
  for (int round = 1; round != 7; ++round) {
    fill(loop.in, round);
    (round % 2 == 0 ? *loop.exec : second).launch(loop.stream);
    errc_text_of(loop.first.try_borrow(), Errc::in_flight);
    while (!loop.first.try_borrow()) REQUIRE(loop.step(1) == 1);
    CHECK(all_are(loop.first.unsynchronized_data(), bytes, round));
    CHECK(loop.rig.sim().pending(loop.stream) > 0);
    loop.rig.sim().run_all();
  }
}

TEST_CASE("work on another stream that reads a buffer waits for its write, and what writes it for the launch") {
  for (const bool several : {false, true}) {
    Loop loop;
    const Stream other(loop.rig.device), writer(loop.rig.device);
    DeviceBuffer<std::byte> target(other, bytes);
    loop.rig.settle(other);
    fill(loop.in, 6);
    loop.exec->launch(loop.stream);
    if (several)
      use_on(other, reads(loop.first), writes(target), [&](const std::byte* from, std::byte* to, NativeStream native) {
        (void)loop.rig.backend().copy(to, from, bytes, detail::CopyKind::host_to_device, native);
      });
    else
      loop.first.async_to_device(other, target.span());
    loop.first.use_on(writer, Access::device_writes, [](std::byte*, NativeStream) {});
    CHECK(loop.step(100, other) == 0);
    loop.step(Loop::until_first);
    CHECK(loop.step(100, other) > 0);
    CHECK(all_are(loop.rig.sim().view_of(target.span().native()), bytes, 6));
    CHECK(loop.rig.sim().pending(loop.stream) > 0);
    CHECK(loop.step(100, writer) == 0);
    loop.rig.sim().run_all();
  }
}

TEST_CASE("a buffer that a graph writes twice can be read after the second write") {
  const Rig rig;
  const Stream stream(rig.device);
  DeviceBuffer<std::byte> memory(stream, bytes);
  Bytes out = rig.heap.make_buffer<std::byte>(bytes, std::byte{0});
  rig.settle(stream);
  auto exec = capture(stream,
                      [&] {
                        out.async_from_device(stream, memory.span());
                        out.async_from_device(stream, memory.span());
                        (void)rig.backend().launch_host_function(
                            stream.native(), [](void*) {}, nullptr);
                      },
                      {.completion = each_write})
                  .instantiate();
  exec.launch(stream);
  CHECK(rig.sim().step(stream, 3) == 3);  // copy, event, copy
  errc_text_of(out.try_borrow(), Errc::in_flight);
  CHECK(rig.sim().step(stream) == 1);
  CHECK(out.try_borrow().has_value());
  CHECK(rig.sim().pending(stream) > 0);
  rig.sim().run_all();
}

TEST_CASE("what forked streams write in a capture is read when each has written, before the join") {
  for (std::uint64_t seed = 0; seed != 8; ++seed) {
    const Rig rig(stepped(seed));
    const Stream stream(rig.device), side(rig.device);
    DeviceBuffer<std::byte> one(stream, bytes), two(stream, bytes);
    Bytes a = rig.heap.make_buffer<std::byte>(bytes, std::byte{3}), b = rig.heap.make_buffer<std::byte>(bytes);
    Bytes c = rig.heap.make_buffer<std::byte>(bytes);
    a.async_to_device(stream, one.span());
    a.async_to_device(stream, two.span());
    rig.settle(stream);
    auto exec = capture(stream,
                        [&] {
                          side.wait(stream.record());
                          b.async_from_device(stream, one.span());
                          c.async_from_device(side, two.span());
                          stream.wait(side.record());
                          (void)rig.backend().launch_host_function(
                              stream.native(), [](void*) {}, nullptr);
                        },
                        {.completion = each_write})
                    .instantiate();
    exec.launch(stream);
    bool b_read = false, c_read = false;
    while (!b_read || !c_read) {
      REQUIRE(rig.sim().step(stream) == 1);
      for (auto [buffer, read] : {std::pair(&b, &b_read), std::pair(&c, &c_read)})
        if (const auto borrow = buffer->try_borrow(); borrow && !std::exchange(*read, true)) CHECK(holds(borrow, 3));
    }
    CHECK(rig.sim().pending(stream) > 0);
    rig.sim().run_all();
  }
}

TEST_CASE("what is written behind the launch, in its stream or in another, is waited for") {
  Loop loop;
  const Stream other(loop.rig.device);
  DeviceBuffer<std::byte> later(loop.stream, bytes);
  loop.rig.settle(loop.stream);
  for (const bool same_stream : {true, false}) {
    const Stream& then = same_stream ? loop.stream : other;
    loop.exec->launch(loop.stream);
    loop.first.async_from_device(then, later.span());
    loop.rig.sim().hold(then);
    if (!same_stream) loop.step(100);
    loop.rig.sim().release(loop.stream);
    if (same_stream) continue;  // released: all has run
    errc_text_of(loop.first.try_borrow(), Errc::in_flight);
    loop.rig.sim().release(then);
    CHECK(loop.first.try_borrow().has_value());
  }
  Loop stepwise;
  stepwise.exec->launch(stepwise.stream);
  stepwise.first.async_from_device(stepwise.stream, stepwise.memory.span());
  stepwise.step(5);  // the launch but for its last event
  errc_text_of(stepwise.first.try_borrow(), Errc::in_flight);
  stepwise.rig.sim().run_all();
  CHECK(stepwise.first.try_borrow().has_value());
}

TEST_CASE("a write by address that comes behind the launch, and is noted before it, is waited for") {
  const Rig rig;
  const Stream stream(rig.device);
  DeviceBuffer<std::byte> memory(stream, bytes);
  auto* const data = static_cast<std::byte*>(rig.heap.allocate(bytes));
  rig.settle(stream);
  const auto write = [&](NativeStream native) {
    const auto way = detail::CopyKind::device_to_host;
    REQUIRE(rig.backend().copy(data, memory.span().native(), bytes, way, native).ok());
  };
  auto exec =
      capture(stream, [&] { rig.heap.use_on(data, stream, Access::device_writes, write); }, {.completion = each_write})
          .instantiate();
  // Two threads at one stream: the launch is enqueued first, and takes its position last.
  rig.sim().after_call(SimulatedCall::launch_graph, [&] {
    (void)rig.backend().launch_host_function(
        stream.native(), [](void*) {}, nullptr);
    write(stream.native());
    (void)rig.heap.record_use(data, stream, Access::device_writes);
  });
  exec.launch(stream);
  CHECK(rig.sim().step(stream, 3) == 3);  // the launch, and the function behind it
  CHECK(!rig.heap.try_wait_for(data, Access::device_reads, {}).has_value());
  rig.sim().run_all();
  CHECK(rig.heap.try_wait_for(data, Access::device_reads, {}).has_value());
  rig.heap.deallocate(data);
}

TEST_CASE(
    "a write by address that comes behind the launch, took its position before it, and is noted last, is waited for") {
  const Rig rig;
  const Stream stream(rig.device);
  DeviceBuffer<std::byte> memory(stream, bytes);
  auto* const data = static_cast<std::byte*>(rig.heap.allocate(bytes));
  rig.settle(stream);
  const auto write = [&](NativeStream native) {
    const auto way = detail::CopyKind::device_to_host;
    REQUIRE(rig.backend().copy(data, memory.span().native(), bytes, way, native).ok());
  };
  auto exec =
      capture(stream, [&] { rig.heap.use_on(data, stream, Access::device_writes, write); }, {.completion = each_write})
          .instantiate();
  std::atomic<bool> has_position{false}, launched{false};
  std::thread other;
  rig.sim().after_call(SimulatedCall::launch_graph, [&] {
    (void)rig.backend().launch_host_function(
        stream.native(), [](void*) {}, nullptr);
    write(stream.native());
    // The other thread asks twice whether the stream captures: before its position is taken, and after.
    rig.sim().before_call(SimulatedCall::capture_info, [&] {
      rig.sim().before_call(SimulatedCall::capture_info, [&] {
        has_position = true;
        until([&] { return launched.load(); });
      });
    });
    other = std::thread([&] { (void)rig.heap.record_use(data, stream, Access::device_writes); });
    until([&] { return has_position.load(); });
  });
  exec.launch(stream);
  launched = true;
  other.join();
  CHECK(rig.sim().step(stream, 3) == 3);  // the launch, and the function behind it
  CHECK(!rig.heap.try_wait_for(data, Access::device_reads, {}).has_value());
  rig.sim().run_all();
  CHECK(rig.heap.try_wait_for(data, Access::device_reads, {}).has_value());
  rig.heap.deallocate(data);
}

TEST_CASE("where the device refuses the event of a write, the launch as a whole is waited for") {
  Rig rig;
  const Stream stream(rig.device);
  DeviceBuffer<std::byte> memory(stream, bytes);
  Bytes first = rig.heap.make_buffer<std::byte>(bytes), second = rig.heap.make_buffer<std::byte>(bytes);
  rig.settle(stream);
  auto exec = capture(stream,
                      [&] {
                        rig.sim().fail_call(SimulatedCall::record_event, 1);
                        first.async_from_device(stream, memory.span());
                        second.async_from_device(stream, memory.span());
                        (void)rig.backend().launch_host_function(
                            stream.native(), [](void*) {}, nullptr);
                      },
                      {.completion = each_write})
                  .instantiate();
  exec.launch(stream);
  CHECK(rig.sim().step(stream, 3) == 3);  // two copies, the event of the second
  errc_text_of(first.try_borrow(), Errc::in_flight);
  CHECK(second.try_borrow().has_value());
  rig.sim().run_all();
  CHECK(first.try_borrow().has_value());
}

TEST_CASE("graph, executable and buffers may go while a launch goes on, and all comes back") {
  Loop loop;
  for (int round = 0; round != 3; ++round) {
    loop.exec->launch(loop.stream);
    loop.step(1);
  }
  loop.graph.reset();
  loop.exec.reset();
  loop.in = {};
  loop.second = {};
  loop.rig.sim().run_all();
  CHECK(loop.first.try_borrow().has_value());
  loop.first = {};
  until([&] { return (void)loop.rig.heap.collect(), loop.rig.all_free(); });
}

TEST_CASE("the events of a graph that is gone serve others") {
  Rig rig;
  const Stream stream(rig.device);
  DeviceBuffer<std::byte> memory(stream, bytes);
  std::size_t events = 0;
  for (int round = 0; round != 100; ++round) {
    Bytes out = rig.heap.make_buffer<std::byte>(bytes);
    auto exec = capture(stream,
                        [&] {
                          for (int i = 0; i != 40; ++i) out.async_from_device(stream, memory.span());
                        },
                        {.completion = each_write})
                    .instantiate();
    exec.launch(stream);
    rig.sim().run_all();
    CHECK(out.try_borrow().has_value());
    { auto gone = std::move(exec); }
    until([&] { return rig.calls(SimulatedCall::destroy_graph_exec) > std::size_t(round); });
    if (round == 30) events = rig.sim().live_events();  // some launches may be done and nobody has asked yet
  }
  CHECK(rig.sim().live_events() <= events + 512);  // of 4,000: some executables are just being destroyed
}

TEST_CASE("a lost device ends the wait for a write with its loss") {
  Loop loop;
  loop.exec->launch(loop.stream);
  std::thread reader([&] { errc_text([&] { (void)loop.first.borrow(); }, Errc::device_lost); });
  until_blocked(loop.rig.sim());
  loop.rig.sim().lose_device();
  reader.join();
  errc_text_of(loop.first.try_borrow(), Errc::device_lost);
}
