// Graphs as handles: a launch is a use of all that was captured, each in its direction. Steps, counts and refusals are
// asked of the simulated device.

#include <stdexcept>
#include <vector>

#include <thole/graph.hpp>

#include "../support/rig.hpp"
#include "streams/stream_registry.hpp"

using namespace support;

namespace {

using Bytes = PinnedBuffer<std::byte>;
constexpr std::size_t bytes = 4 * KiB;
const auto nothing = [](auto&&...) {};

/// A rig with device memory, and a graph that reads one buffer and writes another through it.
struct Loop {
  Rig rig;
  Stream stream{rig.device};
  DeviceBuffer<std::byte> memory{stream, bytes};
  Bytes in = rig.heap.make_buffer<std::byte>(bytes, std::byte{1});
  Bytes out = rig.heap.make_buffer<std::byte>(bytes, std::byte{1});
  Graph graph = capture(stream, [this] {
    in.async_to_device(stream, memory.span());
    out.async_from_device(stream, memory.span());
  });
  GraphExec exec = graph.instantiate();

  explicit Loop(Device device = stepped()) : rig(std::move(device)) { rig.settle(stream); }
};

}  // namespace

TEST_CASE("what is captured happens at each launch, with what the buffers hold then, and a borrow waits for it") {
  Loop loop(under_test());
  for (int value = 2; value != 6; ++value) {
    fill(loop.in, value);
    loop.exec.launch(loop.stream);
    loop.rig.settle(loop.stream);
    CHECK(all_are(loop.out, value));
  }
}

TEST_CASE("nothing is in use before the first launch") {
  Loop loop(under_test());
  CHECK(!loop.in.busy());
  CHECK(loop.in.try_borrow_mut().has_value());
  CHECK(loop.out.try_borrow_mut().has_value());
  if (loop.rig.simulated()) CHECK(loop.rig.sim().pending() == 0);
}

TEST_CASE("a launch uses each buffer in its direction, and what follows it in the stream is not waited for") {
  Loop loop;
  loop.exec.launch(loop.stream);
  const auto operations = loop.rig.sim().pending(loop.stream);
  for (int i = 0; i != 5; ++i) loop.stream.launch_host_function([] {});
  CHECK(loop.in.try_borrow().has_value());
  errc_text_of(loop.in.try_borrow_mut(), Errc::in_flight);
  errc_text_of(loop.out.try_borrow(), Errc::in_flight);
  CHECK(loop.rig.sim().step(loop.stream, operations) == operations);
  CHECK(loop.in.try_borrow_mut().has_value());
  CHECK(loop.out.try_borrow_mut().has_value());
  CHECK(loop.rig.sim().pending(loop.stream) == 5);
}

TEST_CASE("a launch costs one event, however much was captured") {
  const Rig rig;
  const Stream stream(rig.device);
  DeviceBuffer<std::byte> memory(stream, bytes);
  std::vector<Bytes> buffers;
  for (int i = 0; i != 100; ++i) buffers.push_back(rig.heap.make_buffer<std::byte>(64));
  auto exec = capture(stream, [&] {
                for (auto& buffer : buffers) buffer.async_to_device(stream, memory.span());
                for (auto& buffer : buffers) buffer.async_to_device(stream, memory.span());
              }).instantiate();
  rig.settle(stream);
  const auto before = rig.calls(SimulatedCall::record_event);
  exec.launch(stream);
  CHECK(rig.calls(SimulatedCall::record_event) == before + 1);
}

TEST_CASE("a launch comes after what it conflicts with on other streams, and they after it") {
  Loop loop(under_test());
  const Stream before(loop.rig.device), after(loop.rig.device);
  DeviceBuffer<std::byte> source(before, bytes);
  Gate gate(loop.rig, before);
  loop.rig.heap.make_buffer<std::byte>(bytes, std::byte{7}).async_to_device(before, source.span());
  loop.in.async_from_device(before, source.span());
  loop.exec.launch(loop.stream);
  DeviceBuffer<std::byte> target(after, bytes);
  loop.out.async_to_device(after, target.span());
  if (loop.rig.simulated()) {
    loop.rig.sim().step(after, 100);
    loop.rig.sim().step(loop.stream, 100);
  }
  CHECK(all_are(loop.out.unsynchronized_data(), bytes, 1));  // it waits
  gate.open();
  loop.rig.finish(after);
  CHECK(all_are(loop.out, 7));
  CHECK(device_holds(loop.rig, after, target, 7));
}

TEST_CASE("a borrow that forbids a use of the launch is an error, and nothing is launched or used") {
  Loop loop(under_test());
  {
    const auto borrow = loop.out.borrow();
    CHECK(has(errc_text([&] { loop.exec.launch(loop.stream); }, Errc::borrowed), "GraphExec::launch"));
  }
  {
    const auto borrow = loop.in.borrow_mut();
    errc_text_of(loop.exec.try_launch(loop.stream), Errc::borrowed);
  }
  if (loop.rig.simulated()) CHECK(loop.rig.sim().pending() == 0);
  CHECK(!loop.in.busy());
  CHECK(loop.out.try_borrow_mut().has_value());
  const auto borrow = loop.in.borrow();  // a Borrow and a launch that reads go together
  loop.exec.launch(loop.stream);
}

TEST_CASE("a launch that the device refuses uses nothing") {
  Loop loop;
  loop.rig.sim().fail_call(SimulatedCall::launch_graph, 1);
  CHECK(has(errc_text([&] { loop.exec.launch(loop.stream); }, Errc::device_error), "launching the graph"));
  CHECK(loop.out.try_borrow_mut().has_value());
  loop.exec.launch(loop.stream);
}

TEST_CASE("buffers may be dropped before, between and after launches") {
  for (const int when : {0, 1, 2}) {
    auto loop = std::make_optional<Loop>(under_test());
    const Rig& rig = loop->rig;
    auto memory = std::make_optional(std::move(loop->memory));
    const auto drop = [&](int now) {
      if (now != when) return;
      { auto in = std::move(loop->in), out = std::move(loop->out); }
      memory.reset();
    };
    drop(0);
    loop->exec.launch(loop->stream);
    drop(1);
    rig.finish(loop->stream);
    loop->exec.launch(loop->stream);
    rig.finish(loop->stream);
    drop(2);
    CHECK(!rig.device.lost());
    CHECK(!rig.all_free());
    { auto graph = std::move(loop->graph); }
    CHECK(!rig.all_free());
    { auto exec = std::move(loop->exec); }
    until([&] { return rig.all_free(); });
  }
}

TEST_CASE("a graph that is dropped with a launch in flight lets go of the memory after it") {
  Loop loop(under_test());
  Gate gate(loop.rig, loop.stream);
  loop.exec.launch(loop.stream);
  { auto in = std::move(loop.in), out = std::move(loop.out); }
  { auto graph = std::move(loop.graph); }
  { auto exec = std::move(loop.exec); }
  CHECK(!loop.rig.heap.try_make_buffer<std::byte>(loop.rig.arena.capacity()).has_value());
  gate.open();
  loop.rig.finish(loop.stream);
  until([&] { return loop.rig.all_free(); });
}

TEST_CASE("memory that is busy may be captured: each launch is ordered") {
  const Rig rig;
  const Stream stream(rig.device), other(rig.device);
  DeviceBuffer<std::byte> source(other, bytes), target(stream, bytes);
  auto buffer = rig.heap.make_buffer<std::byte>(bytes, std::byte{1});
  rig.heap.make_buffer<std::byte>(bytes, std::byte{5}).async_to_device(other, source.span());
  buffer.async_from_device(other, source.span());
  auto exec = capture(stream, [&] { buffer.async_to_device(stream, target.span()); }).instantiate();
  exec.launch(stream);
  rig.sim().step(stream, 100);
  rig.sim().run_all();
  CHECK(device_holds(rig, stream, target, 5));
}

TEST_CASE("use_on in a capture names what each launch uses") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  auto a = rig.heap.make_buffer<std::byte>(bytes), b = rig.heap.make_buffer<std::byte>(bytes);
  auto exec = capture(stream, [&] { use_on(stream, reads(a), writes(b), nothing); }).instantiate();
  CHECK(!a.busy());
  Gate gate(rig, stream);
  exec.launch(stream);
  errc_text_of(a.try_borrow_mut(), Errc::in_flight);
  errc_text_of(b.try_borrow(), Errc::in_flight);
  CHECK(a.try_borrow().has_value());
  gate.open();
  rig.finish(stream);
  CHECK(b.try_borrow_mut().has_value());
}

TEST_CASE("a launch in a capture is refused, since CUDA has none, and the capture goes on") {
  Loop loop(under_test());
  std::string said;
  fill(loop.in, 9);
  auto outer = capture(loop.stream, [&] {
                 said = errc_text_of(loop.exec.try_launch(loop.stream), Errc::capturing);
                 loop.in.use_on(loop.stream, Access::device_reads, [](const std::byte*, NativeStream) {});
               }).instantiate();
  CHECK(has(said, "capture the work itself"));
  {
    const auto borrow = loop.out.borrow_mut();  // which the refused launch would have written
    outer.launch(loop.stream);
  }
  loop.exec.launch(loop.stream);
  loop.rig.finish(loop.stream);
  CHECK(all_are(loop.out, 9));
}

TEST_CASE("one executable may be launched in several streams, and every launch counts") {
  Loop loop(under_test());
  const Stream other(loop.rig.device);
  fill(loop.in, 4);
  loop.exec.launch(loop.stream);
  Gate gate(loop.rig, other);
  loop.exec.launch(other);
  loop.rig.finish(loop.stream);
  errc_text_of(loop.out.try_borrow(), Errc::in_flight);
  gate.open();
  loop.rig.finish(other);
  CHECK(all_are(loop.out, 4));
}

TEST_CASE("what f throws ends the capture and passes through, and the stream goes on as any") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  auto buffer = rig.heap.make_buffer<std::byte>(rig.arena.capacity());
  CHECK_THROWS_WITH_AS((void)capture(stream,
                                     [&] {
                                       buffer.use_on(stream, Access::device_reads, nothing);
                                       throw std::runtime_error("from the function");
                                     }),
                       "from the function", std::runtime_error);
  CHECK(!stream.capturing());
  { auto dropped = std::move(buffer); }
  until([&] { return rig.all_free(); });
  stream.launch_host_function([] {});
  rig.finish(stream);
  stream.synchronize();
}

TEST_CASE("a capture that cannot begin, or that something invalidates, is an error and leaves nothing") {
  const Rig rig;
  const Stream stream(rig.device);
  (void)capture(stream, [&] {
    errc_text([&] { (void)capture(stream, nothing); }, Errc::capturing);
    CHECK(stream.capturing());
  });
  const auto text =
      errc_text([&] { (void)capture(stream, [&] { CHECK(!rig.backend().synchronize_stream(stream.native()).ok()); }); },
                Errc::capturing);
  CHECK(has(text, "capture"));
  CHECK(!stream.capturing());
  for (const auto call : {SimulatedCall::begin_capture, SimulatedCall::retain_in_graph}) {
    rig.sim().fail_call(call, 1);
    CHECK_THROWS_AS((void)capture(stream, nothing), Error);
    CHECK(!stream.capturing());
  }
  rig.sim().fail_call(SimulatedCall::end_capture, 1);
  (void)capture(stream, nothing);
  CHECK(!stream.capturing());
}

TEST_CASE("an error names the call where a graph is moved from, or of a device that is lost") {
  Loop loop;
  auto graph = std::move(loop.graph);
  auto exec = std::move(loop.exec);
  CHECK(has(errc_text([&] { (void)loop.graph.instantiate(); }, Errc::moved_from), "Graph::instantiate"));
  CHECK(has(errc_text([&] { loop.exec.launch(loop.stream); }, Errc::moved_from), "GraphExec::launch"));
  errc_text([&] { (void)loop.graph.native(); }, Errc::moved_from);
  errc_text([&] { (void)loop.exec.native(); }, Errc::moved_from);
  loop.graph = std::move(graph);
  loop.exec = std::move(exec);
  CHECK(loop.graph.device() == loop.rig.device);
  CHECK(loop.exec.device() == loop.rig.device);
  loop.rig.sim().lose_device();
  errc_text_of(loop.exec.try_launch(loop.stream), Errc::device_lost);
  errc_text_of(loop.graph.try_instantiate(), Errc::device_lost);
}

TEST_CASE("graphs may be dropped in a host function, and are destroyed later") {
  Loop loop(under_test());
  (void)Device(loop.rig.device).take_error();  // of an earlier test's
  auto graph = std::make_shared<Graph>(std::move(loop.graph));
  auto exec = std::make_shared<GraphExec>(std::move(loop.exec));
  { auto in = std::move(loop.in), out = std::move(loop.out); }
  loop.stream.launch_host_function([graph = std::move(graph), exec = std::move(exec)] {});
  loop.rig.finish(loop.stream);
  until([&] {
    (void)loop.rig.heap.collect();
    return loop.rig.all_free();
  });
  CHECK(!Device(loop.rig.device).take_error().has_value());
}

// ---- Graphs that were made elsewhere

TEST_CASE("a graph that the program captured itself knows what thole's calls in the capture used") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  auto buffer = rig.heap.make_buffer<std::byte>(bytes, std::byte{3});
  DeviceBuffer<std::byte> memory(stream, bytes);
  rig.settle(stream);
  void* handle = nullptr;
  REQUIRE(rig.backend().begin_capture(stream.native(), detail::CaptureMode::relaxed).ok());
  buffer.async_to_device(stream, memory.span());
  REQUIRE(rig.backend().end_capture(stream.native(), &handle).ok());
  auto graph = Graph::from_native(rig.device, static_cast<NativeGraph>(handle));
  CHECK(graph.native() == handle);
  auto exec = graph.instantiate();
  Gate gate(rig, stream);
  exec.launch(stream);
  errc_text_of(buffer.try_borrow_mut(), Errc::in_flight);
  gate.open();
  rig.finish(stream);
  CHECK(buffer.try_borrow_mut().has_value());
}

TEST_CASE("a launch of a foreign executable is a use of what is named") {
  Loop loop;
  const NativeGraphExec foreign = loop.exec.native();
  const Rig& rig = loop.rig;
  launch(foreign, loop.stream, reads(loop.in), writes(loop.memory), writes(loop.out));
  errc_text_of(loop.in.try_borrow_mut(), Errc::in_flight);
  errc_text_of(loop.out.try_borrow(), Errc::in_flight);
  rig.sim().run_all();
  CHECK(all_are(loop.out, 1));
  UseList uses;
  uses.writes(loop.out);
  fill(loop.in, 2);
  launch(foreign, loop.stream, uses);
  errc_text_of(loop.out.try_borrow(), Errc::in_flight);
  rig.sim().run_all();
  CHECK(all_are(loop.out, 2));
  rig.sim().fail_call(SimulatedCall::launch_graph, 1);
  errc_text_of(try_launch(foreign, loop.stream, reads(loop.in)), Errc::device_error);
  const auto borrow = loop.out.borrow();
  errc_text_of(try_launch(foreign, loop.stream, uses), Errc::borrowed);
}

TEST_CASE("where two captures went into one graph, a launch is a use of what both of them captured") {
  const Rig rig;
  const Stream stream(rig.device);
  DeviceBuffer<std::byte> target(stream, 64);
  auto first = rig.heap.make_buffer<std::byte>(64), second = rig.heap.make_buffer<std::byte>(64);
  rig.settle(stream);
  const auto& core = detail::HandleAccess::core(rig.device);
  void* native = nullptr;
  REQUIRE(rig.backend().begin_capture(stream.native(), detail::CaptureMode::relaxed).ok());
  first.async_to_device(stream, target.span());
  REQUIRE(rig.backend().end_capture(stream.native(), &native).ok());
  // As cudaStreamBeginCaptureToGraph: another capture, the same graph.
  std::shared_ptr<detail::GraphUses> uses;
  REQUIRE(core->streams->graphs
              .of_capture(core, {detail::CaptureInfo::State::active, 1, native}, detail::GraphLaunches::unseen, &uses)
              .ok());
  auto* const block = static_cast<detail::Block*>(writes(second).use.block);
  REQUIRE(uses->hold({block, nullptr, true, false}));
  uses.reset();
  auto exec = Graph::from_native(rig.device, static_cast<NativeGraph>(native)).instantiate();
  Gate gate(rig, stream);
  exec.launch(stream);
  errc_text_of(first.try_borrow_mut(), Errc::in_flight);
  errc_text_of(second.try_borrow(), Errc::in_flight);
  gate.open();
  rig.settle(stream);
  CHECK(second.try_borrow_mut().has_value());
  // That graph is gone: one with its handle is another.
  CHECK(core->streams->graphs.of_graph(core, native) == nullptr);
}

TEST_CASE("two threads that instantiate one graph do so one after the other") {
  const Rig rig;
  const Stream stream(rig.device);
  const Graph graph = capture(stream, [] {});
  std::atomic<bool> inside{false}, overlapped{false}, begun{false};
  std::thread second;
  rig.sim().before_call(SimulatedCall::instantiate_graph, [&] {
    inside = true;
    rig.sim().before_call(SimulatedCall::instantiate_graph, [&] { overlapped = inside.load(); });
    second = std::thread([&] {
      begun = true;
      (void)graph.instantiate();
    });
    until([&] { return begun.load(); });
    for (int i = 0; i != 10'000 && !overlapped; ++i) std::this_thread::yield();  // who is held up is not waited for
  });
  rig.sim().after_call(SimulatedCall::instantiate_graph, [&] { inside = false; });
  (void)graph.instantiate();
  second.join();
  CHECK(!overlapped);
}
