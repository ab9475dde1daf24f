// What is dropped in a function that the device calls back: no call of the device there, and nothing is lost.

#include <memory>
#include <utility>
#include <vector>

#include "../support/rig.hpp"
#include "backend/simulated/machine.hpp"

using namespace support;

namespace {

constexpr std::size_t bytes = 4 * KiB;

std::size_t calls_inside() { return detail::simulated::machine().calls_in_host_functions; }

/// Drops the thing in a host function of the stream, and checks that the device heard nothing of it.
template <class Thing>
void dropped_in_host_function(const Rig& rig, const StreamRef& stream, Thing thing) {
  const auto before = calls_inside();
  stream.launch_host_function([held = std::make_shared<std::optional<Thing>>(std::move(thing))] { held->reset(); });
  rig.sim().run_all();
  CHECK(calls_inside() == before);
}

/// Until the library's own thread has destroyed one more event.
void until_destroyed(const Rig& rig, std::size_t before) {
  until([&] { return rig.calls(SimulatedCall::destroy_event) > before; });
}

}  // namespace

TEST_CASE("an event that measures time and is dropped in a host function is destroyed elsewhere") {
  const Rig rig;
  const Stream stream(rig.device);
  const auto before = rig.calls(SimulatedCall::destroy_event);
  Event timed = stream.record({.timing = true});
  rig.sim().run_all();
  CHECK(timed.ready());
  dropped_in_host_function(rig, stream, std::move(timed));
  until_destroyed(rig, before);
}

TEST_CASE("an event of a capture that is dropped in a host function is destroyed elsewhere") {
  const Rig rig;
  const Stream stream(rig.device), other(rig.device);
  rig.sim().begin_capture(stream, SimulatedCaptureMode::relaxed);
  Event captured = stream.record();
  { const auto graph = rig.sim().end_capture(stream); }
  const auto before = rig.calls(SimulatedCall::destroy_event);
  dropped_in_host_function(rig, other, std::move(captured));
  until_destroyed(rig, before);
}

TEST_CASE("a part that many streams use and that is dropped in a host function asks nothing there, and comes back") {
  const Rig rig;
  const Stream stream(rig.device);
  std::vector<Stream> users;
  std::vector<DeviceBuffer<std::byte>> targets;
  auto parts = rig.heap.make_buffer<std::byte>(2 * bytes).split({bytes, bytes});
  for (int i = 0; i != 6; ++i) {
    users.emplace_back(rig.device);
    targets.emplace_back(users.back(), bytes);
    parts[0].async_to_device(users.back(), targets.back().span());
    rig.sim().hold(users.back());
  }
  parts.pop_back();
  dropped_in_host_function(rig, stream, std::move(parts));
  CHECK(!rig.all_free());
  for (const Stream& user : users) rig.sim().release(user);
  rig.sim().run_all();
  CHECK(rig.all_free());
}

TEST_CASE("handles of every kind that are dropped in a host function call no device there") {
  const Rig rig;
  const Stream stream(rig.device);
  auto made = std::make_unique<Stream>(rig.device);
  DeviceBuffer<std::byte> memory(*made, bytes);
  auto buffer = rig.heap.make_buffer<std::byte>(bytes);
  buffer.async_to_device(*made, memory.span());
  Graph graph = capture(*made, [&] { buffer.async_to_device(*made, memory.span()); });
  auto exec = graph.instantiate();
  UseList list;
  list.reads(buffer);
  list.writes(memory);
  SUBCASE("a buffer in flight") { dropped_in_host_function(rig, stream, std::move(buffer)); }
  SUBCASE("device memory") { dropped_in_host_function(rig, stream, std::move(memory)); }
  SUBCASE("a stream") { dropped_in_host_function(rig, stream, std::move(made)); }
  SUBCASE("a graph") { dropped_in_host_function(rig, stream, std::move(graph)); }
  SUBCASE("an executable graph") { dropped_in_host_function(rig, stream, std::move(exec)); }
  SUBCASE("a list of uses") { dropped_in_host_function(rig, stream, std::move(list)); }
  SUBCASE("the heap and the arena") {
    dropped_in_host_function(rig, stream, PinnedHeap(PinnedArena(rig.device, {.bytes = MiB})));
  }
}

TEST_CASE("device memory that a kernel's function for the CPU drops is freed") {
  const Rig rig;
  const Stream stream(rig.device);
  auto in = rig.heap.make_buffer<int>(16, 1);
  auto memory = std::make_shared<std::optional<DeviceBuffer<std::byte>>>(std::in_place, stream, bytes);
  rig.settle(stream);
  const auto before = calls_inside();
  launch(
      stream, reads(in), [](auto...) {}, [memory](gsl::span<const int>) { memory->reset(); });
  rig.settle(stream);
  CHECK(calls_inside() == before);
  CHECK(!Device(rig.device).take_error().has_value());
  rig.until_device_memory_is_free();
}

TEST_CASE("what the host function of a graph holds goes with the graph, without a call of the device there") {
  const Rig rig;
  const Stream stream(rig.device);
  auto memory = std::make_shared<DeviceBuffer<std::byte>>(stream, bytes);
  rig.settle(stream);
  const auto before = calls_inside();
  {
    const Graph graph = capture(stream, [&] { stream.launch_host_function([held = std::move(memory)] {}); });
  }
  CHECK(calls_inside() == before);
  CHECK(!Device(rig.device).take_error().has_value());
  rig.until_device_memory_is_free();
}
