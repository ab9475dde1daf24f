// Rule 7: graph capture. Uses become nodes, and memory lives as long as the graph does. One case has the device refuse,
// as only the simulated one does when told to.

#include <algorithm>
#include <array>
#include <optional>
#include <vector>

#include <thole/graph.hpp>

#include "../support/gpu_gate.hpp"
#include "../support/rig.hpp"

using namespace support;
using detail::CaptureMode;

namespace {

constexpr std::size_t bytes = 4 * KiB;

/// Device memory for the copies, made before any capture.
DeviceBuffer<std::byte> memory(const Rig& rig, const StreamRef& stream, std::size_t size = bytes) {
  DeviceBuffer<std::byte> made(stream, size);
  rig.settle(stream);
  return made;
}

/// A capture in global mode, begun and ended past thole, as other code does.
void begin_capture(const Rig& rig, const StreamRef& stream) {
  REQUIRE(rig.backend().begin_capture(stream.native(), CaptureMode::global).ok());
}

/// Runs f while `stream` captures, and gives the graph; fails where f invalidated the capture.
template <class F>
Graph captured(const Rig& rig, const StreamRef& stream, F&& f) {
  begin_capture(rig, stream);
  REQUIRE(stream.capturing());
  f();
  CHECK(stream.capturing());
  void* graph = nullptr;
  REQUIRE(rig.backend().end_capture(stream.native(), &graph).ok());
  CHECK(!stream.capturing());
  return Graph::from_native(rig.device, static_cast<NativeGraph>(graph));
}

/// A graph that copies a buffer of its own, which the program has let go of.
Graph copy_of_its_own(const Rig& rig, const StreamRef& stream, DeviceBuffer<std::byte>& target, int value) {
  return captured(rig, stream, [&] {
    rig.heap.make_buffer<std::byte>(bytes, std::byte(value)).async_to_device(stream, target.span());
  });
}

}  // namespace

TEST_CASE("a copy in a capture happens at each launch and not before, with what the memory holds then") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  auto target = memory(rig, stream);
  auto buffer = rig.heap.make_buffer<std::byte>(bytes, std::byte{1});
  auto graph = captured(rig, stream, [&] { buffer.async_to_device(stream, target.span()); });
  if (rig.simulated()) CHECK(rig.sim().pending() == 0);
  CHECK(!buffer.busy());
  auto exec = graph.instantiate();
  for (int value = 2; value != 6; ++value) {
    fill(buffer, value);
    exec.launch(stream);
    rig.finish(stream);
    CHECK(device_holds(rig, stream, target, value));
  }
}

TEST_CASE("a copy to the host in a capture fills the buffer at each launch") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  auto target = memory(rig, stream);
  auto source = rig.heap.make_buffer<std::byte>(bytes);
  std::optional<PinnedBuffer<std::byte>> back;
  auto graph = captured(rig, stream, [&] { back = target.async_to_host(stream, rig.heap); });
  auto exec = graph.instantiate();
  for (int value = 1; value != 4; ++value) {
    fill(source, value);
    source.async_to_device(stream, target.span());
    exec.launch(stream);
    rig.finish(stream);
    CHECK(all_are(*back, value));
  }
}

TEST_CASE("the memory of a captured copy lives until the graph and all its executables are gone, in every order") {
  std::array<int, 3> order{0, 1, 2};
  do {
    const Rig rig(under_test());
    const Stream stream(rig.device);
    auto target = memory(rig, stream);
    std::optional<Graph> graph(copy_of_its_own(rig, stream, target, 7));
    std::optional<GraphExec> one(graph->instantiate()), two(graph->instantiate());
    for (const int which : order) {
      CHECK(!rig.all_free());
      for (auto* exec : {&one, &two})
        if (*exec) {
          rig.heap.make_buffer<std::byte>(bytes, std::byte{1}).async_to_device(stream, target.span());
          (*exec)->launch(stream);
          rig.finish(stream);
          CHECK(device_holds(rig, stream, target, 7));
        }
      if (which == 0) graph.reset();
      if (which == 1) one.reset();
      if (which == 2) two.reset();
    }
    until([&] { return rig.all_free(); });  // a thread of the library's destroys executables
  } while (std::next_permutation(order.begin(), order.end()));
}

TEST_CASE("the device memory of a captured copy lives until the graph and all its executables are gone") {
  constexpr std::size_t large = 512 * KiB, others = 64 * KiB;  // what earlier tests have left may go meanwhile
  std::array<int, 3> order{0, 1, 2};
  do {
    const Rig rig(under_test());
    if (!has_what_it_needs(rig)) return;
    const Stream stream(rig.device);
    const auto any = memory(rig, stream);
    const auto buffer = rig.heap.make_buffer<std::byte>(large);
    const auto before = used_device_bytes(rig, any);
    std::optional<Graph> graph(captured(rig, stream, [&] { (void)buffer.async_to_device(stream); }));
    std::optional<GraphExec> one(graph->instantiate()), two(graph->instantiate());
    const auto used = [&] {
      (void)rig.heap.collect();
      rig.settle(stream);
      return used_device_bytes(rig, any);
    };
    for (const int which : order) {
      CHECK(used() + others >= before + large);
      if (which == 0) graph.reset();
      if (which == 1) one.reset();
      if (which == 2) two.reset();
    }
    until([&] { return used() <= before + others; });
  } while (std::next_permutation(order.begin(), order.end()));
}

TEST_CASE("an executable that is destroyed while its launch is in flight lets go of the memory after it") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  auto target = memory(rig, stream);
  std::optional<Gate> gate;
  {
    auto graph = copy_of_its_own(rig, stream, target, 3);
    auto exec = graph.instantiate();
    gate.emplace(rig, stream);
    exec.launch(stream);
  }
  (void)rig.heap.collect();
  CHECK(!rig.heap.try_make_buffer<std::byte>(rig.arena.capacity()).has_value());
  gate->open();
  rig.finish(stream);
  CHECK(device_holds(rig, stream, target, 3));
  until([&] { return rig.all_free(); });
}

TEST_CASE("a handle that is still held keeps the memory after the graph is gone") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  auto target = memory(rig, stream);
  std::optional<PinnedBuffer<std::byte>> buffer(rig.heap.make_buffer<std::byte>(bytes));
  (void)captured(rig, stream, [&] { buffer->async_to_device(stream, target.span()); });
  (void)rig.heap.collect();
  CHECK(!rig.all_free());
  fill(*buffer, 4);
  CHECK(all_are(*buffer, 4));
  buffer.reset();
  until([&] { return rig.all_free(); });
}

TEST_CASE("a capture that comes to nothing lets go of its memory") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  auto target = memory(rig, stream);
  begin_capture(rig, stream);
  rig.heap.make_buffer<std::byte>(bytes).async_to_device(stream, target.span());
  CHECK(!rig.backend().synchronize_stream(stream.native()).ok());  // the program's own mistake
  errc_text([&] { rig.heap.make_buffer<std::byte>(bytes).async_to_device(stream, target.span()); }, Errc::capturing);
  void* graph = nullptr;
  CHECK(rig.backend().end_capture(stream.native(), &graph).code == detail::StatusCode::capture);
  until([&] { return rig.all_free(); });
}

TEST_CASE("where the graph would not keep the memory, the copy is refused and nothing is lost") {
  const Rig rig;  // which can be told to refuse
  const Stream stream(rig.device);
  auto target = memory(rig, stream);
  begin_capture(rig, stream);
  rig.sim().fail_call(SimulatedCall::retain_in_graph, 1);
  CHECK_THROWS_AS(rig.heap.make_buffer<std::byte>(bytes).async_to_device(stream, target.span()), Error);
  rig.sim().fail_call(SimulatedCall::retain_in_graph, 0);
  CHECK(rig.all_free());
  void* graph = nullptr;
  REQUIRE(rig.backend().end_capture(stream.native(), &graph).ok());
  REQUIRE(rig.backend().destroy_graph(graph).ok());
}

TEST_CASE("a captured copy of memory whose write is in flight is refused, and the capture goes on") {
  const Rig rig(under_test());
  const Stream stream(rig.device), other(rig.device);
  auto target = memory(rig, stream);
  for (const StreamRef& writer : {StreamRef(stream), StreamRef(other)}) {
    auto written = rig.heap.make_buffer<std::byte>(bytes);
    Gate gate(rig, writer);
    written.async_from_device(writer, target.span());
    (void)captured(rig, stream, [&] {
      const auto text = errc_text([&] { written.async_to_device(stream, target.span()); }, Errc::in_flight);
      CHECK(has(text, "async_to_device"));
      CHECK(has(text, "captured"));
      CHECK(has(errc_text([&] { written.async_from_device(stream, target.span()); }, Errc::in_flight),
                "async_from_device"));
    });
    gate.open();
    rig.finish(writer);
  }
}

TEST_CASE("a captured copy that reads memory which another stream reads is fine; one that writes it is refused") {
  const Rig rig(under_test());
  const Stream stream(rig.device), other(rig.device);
  auto target = memory(rig, stream), second = memory(rig, other);
  auto buffer = rig.heap.make_buffer<std::byte>(bytes);
  Gate gate(rig, other);
  buffer.async_to_device(other, second.span());
  (void)captured(rig, stream, [&] {
    buffer.async_to_device(stream, target.span());
    errc_text([&] { buffer.async_from_device(stream, target.span()); }, Errc::in_flight);
  });
}

TEST_CASE("a use before the capture that no event covers cannot be waited for during it") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  auto target = memory(rig, stream);
  void* const native = stream.native();  // whoever captures has asked for it
  auto buffer = rig.heap.make_buffer<std::byte>(bytes);
  Gate gate(rig, stream);
  buffer.async_to_device(stream, target.span());
  REQUIRE(rig.backend().begin_capture(native, CaptureMode::global).ok());
  CHECK(buffer.borrow().size() == bytes);  // the device only reads
  CHECK(has(errc_text([&] { (void)buffer.borrow_mut(); }, Errc::capturing), "borrow_mut"));
  CHECK(has(errc_text([&] { buffer.wait(); }, Errc::capturing), "wait"));
  CHECK(has(errc_text([&] { rig.heap.drain(); }, Errc::capturing), "drain"));
  errc_text_of(buffer.try_borrow_mut(), Errc::in_flight);
  CHECK(buffer.busy());
  { const auto dropped = std::move(buffer); }
  (void)rig.heap.collect();
  void* graph = nullptr;
  REQUIRE(rig.backend().end_capture(native, &graph).ok());
  REQUIRE(rig.backend().destroy_graph(graph).ok());
  CHECK(!rig.all_free());
  gate.open();
  rig.finish(stream);
  rig.heap.drain();
  CHECK(rig.all_free());
}

TEST_CASE("a use before the capture that an event covers can be waited for during it") {
  const Rig rig(under_test());
  const Stream stream(rig.device), other(rig.device);
  auto target = memory(rig, stream);
  auto buffer = rig.heap.make_buffer<std::byte>(bytes);
  Gate gate(rig, stream);
  buffer.async_to_device(stream, target.span());
  (void)captured(rig, stream, [&] {
    errc_text_of(buffer.try_borrow_mut(), Errc::in_flight);
    gate.open();
    until([&] { return buffer.try_borrow_mut().has_value(); });
    fill(buffer, 1);
  });
}

TEST_CASE("calls on a capturing stream that a graph cannot hold say so, and the capture survives them") {
  const Rig rig(under_test());
  const Stream stream(rig.device), other(rig.device);
  const auto done = other.record();
  rig.finish(other);
  CHECK(done.ready());
  Gate gate(rig, other);
  other.launch_host_function([] {});
  const auto event = other.record();
  (void)captured(rig, stream, [&] {
    CHECK(has(errc_text([&] { stream.synchronize(); }, Errc::capturing), "synchronize"));
    errc_text_of(stream.synchronize_for(std::chrono::hours(1)), Errc::capturing);
    CHECK(has(errc_text([&] { stream.wait(event); }, Errc::capturing), "wait"));
    stream.wait(done);  // nothing is left to wait for
    CHECK(!event.ready());
    gate.open();
    until([&] { return event.ready(); });
  });
  stream.synchronize();
}

TEST_CASE("the rules of borrowing hold in a capture") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  auto target = memory(rig, stream);
  auto buffer = rig.heap.make_buffer<std::byte>(bytes);
  (void)captured(rig, stream, [&] {
    {
      const auto borrow = buffer.borrow_mut();
      errc_text([&] { buffer.async_to_device(stream, target.span()); }, Errc::borrowed);
    }
    const auto borrow = buffer.borrow();
    errc_text([&] { buffer.async_from_device(stream, target.span()); }, Errc::borrowed);
    buffer.async_to_device(stream, target.span());
  });
}

TEST_CASE("a host function in a captured graph runs at each launch") {
  const Rig rig(under_test());
  const Stream stream(rig.device), other(rig.device);
  int runs = 0;
  {
    auto graph = captured(rig, stream, [&] { stream.launch_host_function([&] { ++runs; }); });
    CHECK(runs == 0);
    auto exec = graph.instantiate();
    for (const StreamRef& on : {StreamRef(stream), StreamRef(other), StreamRef(stream)}) exec.launch(on);
    rig.finish(stream);
    rig.finish(other);
    CHECK(runs == 3);
    exec.launch(other);
  }
  rig.finish(other);
  CHECK(runs == 4);
}

TEST_CASE("what use_on enqueues in a capture keeps the memory until the graph is gone") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  auto graph = std::make_optional(captured(rig, stream, [&] {
    rig.heap.make_buffer<std::byte>(bytes).use_on(
        stream, Access::device_writes, [&](std::byte* data, NativeStream native) {
          const auto write = [](void* to) { std::memset(to, 1, bytes); };
          REQUIRE(rig.backend().launch_host_function(native, write, data).ok());
        });
  }));
  graph->instantiate().launch(stream);
  rig.finish(stream);
  CHECK(!rig.all_free());
  graph.reset();
  until([&] { return rig.all_free(); });
}
