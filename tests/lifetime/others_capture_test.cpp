// Rule 7: nothing that thole does anywhere invalidates somebody's capture, in any mode, on a GPU either.

#include <chrono>
#include <memory>
#include <optional>
#include <sstream>
#include <thread>
#include <vector>

#include <thole/graph.hpp>

#include "../support/rig.hpp"

using namespace support;
using detail::CaptureInfo, detail::CaptureMode;

namespace {

constexpr std::size_t bytes = 4 * KiB;
constexpr CaptureMode all_modes[] = {CaptureMode::global, CaptureMode::thread_local_, CaptureMode::relaxed};

/// Somebody's capture: begun and ended past thole.
class Theirs {
 public:
  Theirs(const Device& device, const StreamRef& stream, CaptureMode mode)
      : backend_(backend_of(device)), stream_(stream.native()) {
    REQUIRE(backend_.begin_capture(stream_, mode).ok());
  }
  ~Theirs() {
    if (exec_ != nullptr) CHECK(backend_.destroy_graph_exec(exec_).ok());
    if (graph_ != nullptr) CHECK(backend_.destroy_graph(graph_).ok());
  }
  Theirs(const Theirs&) = delete;
  Theirs& operator=(const Theirs&) = delete;

  void end() {
    CaptureInfo info;
    CHECK(backend_.capture_info(stream_, &info).ok());
    CHECK(info.state == CaptureInfo::State::active);
    REQUIRE(backend_.end_capture(stream_, &graph_).ok());
  }
  void launch() {
    REQUIRE(backend_.instantiate_graph(graph_, &exec_).ok());
    REQUIRE(backend_.launch_graph(exec_, stream_).ok());
  }

 private:
  detail::DeviceBackend& backend_;
  const detail::StreamHandle stream_;
  detail::GraphHandle graph_ = nullptr;
  detail::GraphExecHandle exec_ = nullptr;
};

/// Everything in thole that calls the device, on streams of its own, one of which is stuck for a while; blocks nowhere.
/// Lets simulated ones run from then on: thole's own thread may record an event for what the other arenas have left.
void everything_else(const Rig& rig, const StreamRef& busy, const Graph& made_before) {
  CHECK(made_before.try_instantiate().has_value());
  Stream stream(rig.device);
  DeviceBuffer<std::byte> target(stream, bytes);
  for (const auto method : {PinMethod::register_pages, PinMethod::host_alloc}) {
    const PinnedHeap other(PinnedArena(rig.device, {.bytes = 64 * KiB, .pin_method = method}));
    other.make_buffer<std::byte>(bytes).async_to_device(stream, target.span());
  }
  Gate gate(rig, busy);
  std::vector<PinnedBuffer<std::byte>> grown;
  const auto before = rig.arena.capacity();
  while (rig.arena.capacity() == before) {
    grown.push_back(rig.heap.make_buffer<std::byte>(256 * KiB));
    grown.back().async_to_device(stream, target.span(), 0, bytes);
  }
  { const auto in_flight = grown.front().async_to_device(stream); }
  grown.clear();
  auto own = rig.heap.make_buffer<std::byte>(bytes, std::byte{1});
  own.async_to_device(busy, target.span());
  own.async_to_device(stream, target.span());
  CHECK(own.busy());
  errc_text_of(own.try_borrow_mut(), Errc::in_flight);
  own.use_on(stream, Access::device_writes, [](std::byte*, NativeStream) {});
  auto back = target.async_to_host(stream, rig.heap);
  stream.launch_host_function([] {});
  const auto event = stream.record();
  busy.wait(event);
  CHECK(!event.ready());
  (void)rig.heap.collect();
  (void)rig.heap.stats();
  (void)rig.heap.report();
  (void)rig.arena.stats();
  (void)rig.heap.try_make_buffer<std::byte>(64 * MiB);
  (void)rig.heap.try_make_buffer_for<std::byte>(2 * MiB, std::chrono::nanoseconds(0));
  if (rig.simulated()) rig.sim().release(stream);
  gate.open();
  if (rig.simulated()) CHECK(event.ready());
  event.synchronize();
  stream.synchronize();
  back.wait();
  CHECK(all_are(back, 1));
  (void)own.borrow_mut();
  rig.heap.drain();
  (void)PinnedArena(rig.arena).trim();
  std::ostringstream svg;
  rig.arena.draw_svg(svg);
}

}  // namespace

TEST_CASE("nothing that thole does on the same thread or on another invalidates a capture of any mode") {
  for (const auto mode : all_modes)
    for (const bool same_thread : {true, false}) {
      CAPTURE(same_thread);
      const Rig rig(under_test(), {.bytes = MiB, .max_bytes = 8 * MiB});
      const Stream stream(rig.device), busy(rig.device);
      DeviceBuffer<std::byte> target(stream, bytes);
      rig.settle(stream);
      const Graph made_before = capture(busy, [&] { busy.launch_host_function([] {}); });
      Theirs theirs(rig.device, stream, mode);
      rig.heap.make_buffer<std::byte>(bytes, std::byte{5}).async_to_device(stream, target.span());
      if (same_thread) {
        everything_else(rig, busy, made_before);
      } else {
        std::thread([&] { everything_else(rig, busy, made_before); }).join();
      }
      theirs.end();
      theirs.launch();
      rig.settle(stream);
      CHECK(device_holds(rig, stream, target, 5));
      const auto error = Device(rig.device).take_error();
      CHECK_MESSAGE(!error, (error ? error->what() : ""));
    }
}

TEST_CASE("letting go of everything during somebody's capture does not invalidate it") {
  for (const auto mode : all_modes) {
    const auto device = under_test();
    const Stream stream(device), other(device);
    auto rig = std::make_unique<Rig>(device);
    auto borrowed = std::make_optional(rig->heap.make_buffer<std::byte>(bytes));
    auto borrow = std::make_optional(borrowed->borrow());
    auto memory = std::make_optional<DeviceBuffer<std::byte>>(other, bytes);
    rig->settle(other);
    Theirs theirs(device, stream, mode);
    borrowed.reset();
    memory.reset();
    rig.reset();
    borrow.reset();
    if (device.backend() == thole::Backend::simulated) until([&] { return device.simulation().arena_bytes() == 0; });
    theirs.end();
  }
}
