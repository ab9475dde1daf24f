// A capture that another thread begins or ends in the middle of a call: a call that would have invalidated it keeps it
// from beginning, or is refused; and what the call gave the device is kept by the stream and by the graph. That moment
// is a hook of the simulated device: no driver has one.

#include <optional>
#include <thread>
#include <vector>

#include "../support/rig.hpp"

using namespace support;

namespace {

constexpr std::size_t bytes = 4 * KiB;

/// A thread that captures through thole in the middle of the next call of this kind. Where the call keeps it from that
/// it captures afterwards.
class CaptureInside {
 public:
  CaptureInside(const Rig& rig, const StreamRef& stream, SimulatedCall kind) : stream_(stream) {
    rig.sim().before_call(kind, [this] {
      thread_ = std::thread([this] {
        graph_.emplace(try_capture(stream_, [this] {
          begun_ = true;
          until([this] { return returned_.load(); });
        }));
      });
      for (int i = 0; i != 10'000 && !begun_; ++i) std::this_thread::yield();  // who is held up is not waited for
    });
    rig.sim().after_call(kind, [this] { returned_ = true; });
  }
  CaptureInside(const CaptureInside&) = delete;
  CaptureInside& operator=(const CaptureInside&) = delete;
  ~CaptureInside() {
    REQUIRE(thread_.joinable());  // the call was met
    returned_ = true;
    thread_.join();
    CHECK(graph_->has_value());
    if (!graph_->has_value()) MESSAGE(graph_->error().what());
  }

 private:
  const StreamRef stream_;
  std::thread thread_;
  std::atomic<bool> begun_{false}, returned_{false};
  std::optional<Result<Graph>> graph_;
};

/// A stream of which thole knows that it may capture, and device memory that is ready.
struct Scene {
  Rig rig;
  const Stream stream{rig.device};
  void* const native = stream.native();
  std::optional<DeviceBuffer<std::byte>> memory{std::in_place, stream, bytes};
  Scene() { rig.settle(stream); }

  void begin() const { REQUIRE(rig.backend().begin_capture(native, detail::CaptureMode::relaxed).ok()); }
  detail::GraphHandle end() const {
    detail::GraphHandle graph = nullptr;
    REQUIRE(rig.backend().end_capture(native, &graph).ok());
    return graph;
  }
  void drop(detail::GraphHandle graph) const { REQUIRE(rig.backend().destroy_graph(graph).ok()); }
};

}  // namespace

TEST_CASE("a capture of thole's that begins while device memory is dropped goes on unharmed") {
  const Rig rig;
  const Stream stream(rig.device);
  auto memory = std::make_optional<DeviceBuffer<std::byte>>(stream, bytes);
  rig.settle(stream);
  {
    const CaptureInside capture(rig, stream, SimulatedCall::free_device);
    memory.reset();
  }
  rig.until_device_memory_is_free();
}

TEST_CASE("a capture of thole's that begins while device memory is made goes on unharmed") {
  const Rig rig;
  const Stream stream(rig.device);
  const CaptureInside capture(rig, stream, SimulatedCall::allocate_device);
  const DeviceBuffer<std::byte> memory(stream, bytes);
}

TEST_CASE("a capture of thole's that begins while the stream is made to wait for another one goes on unharmed") {
  const Rig rig;
  const Stream stream(rig.device), other(rig.device);
  DeviceBuffer<std::byte> memory(other, bytes);
  auto buffer = rig.heap.make_buffer<std::byte>(bytes);
  SUBCASE("by a use") {
    buffer.async_from_device(other, memory.span());
    const CaptureInside capture(rig, stream, SimulatedCall::wait_event);
    (void)buffer.try_use_on(stream, Access::device_reads, [](const std::byte*, NativeStream) {});
  }
  SUBCASE("by a use of what a graph writes early") {
    auto graph =
        thole::capture(other, [&] { buffer.async_from_device(other, memory.span()); }, {.completion = each_write});
    auto exec = graph.instantiate();
    exec.launch(other);
    const auto more = rig.heap.make_buffer<std::byte>(bytes);
    const CaptureInside capture(rig, stream, SimulatedCall::wait_event);
    SUBCASE("alone") {
      (void)buffer.try_use_on(stream, Access::device_reads, [](const std::byte*, NativeStream) {});
    }
    SUBCASE("among several") {
      (void)try_use_on(stream, reads(buffer), reads(more), [](auto...) {});
    }
  }
  SUBCASE("by an event") {
    const Event event = other.record();
    const CaptureInside capture(rig, stream, SimulatedCall::wait_event);
    stream.wait(event);
  }
}

TEST_CASE("a use whose stream has begun to capture meanwhile is refused, and it is that stream that the error names") {
  const Scene scene;
  const Rig& rig = scene.rig;
  const Stream other(rig.device);
  auto buffer = rig.heap.make_buffer<std::byte>(bytes);
  DeviceBuffer<std::byte> memory(other, bytes);
  buffer.async_from_device(other, memory.span());
  rig.sim().after_call(SimulatedCall::capture_info, [&] { scene.begin(); });
  const auto text = errc_text_of(
      buffer.try_use_on(scene.stream, Access::device_reads, [](const std::byte*, NativeStream) { FAIL_CHECK("ran"); }),
      Errc::capturing);
  CHECK(has(text, "a graph capture has begun in stream " + std::to_string(scene.stream.id())));
  scene.drop(scene.end());  // which was not invalidated
}

TEST_CASE("a stream that another thread synchronizes with begins no capture of thole's, and says why") {
  const Rig rig;
  const Stream stream(rig.device);
  DeviceBuffer<std::byte> memory(stream, bytes);
  std::optional<std::string> text;
  rig.sim().before_call(SimulatedCall::synchronize_stream, [&] {
    std::thread([&] { text = errc_text_of(try_capture(stream, [] {}), Errc::in_flight); }).join();
    rig.sim().run_all();
  });
  stream.synchronize();
  REQUIRE(text.has_value());
  CHECK(has(*text, "synchronizes"));
  CHECK(try_capture(stream, [] {}).has_value());
}

TEST_CASE("a host function that a capture takes in the middle of its call runs with each launch of the graph") {
  const Scene scene;
  const Rig& rig = scene.rig;
  auto alive = std::make_shared<int>(0);
  int runs = 0;
  rig.sim().before_call(SimulatedCall::host_function, [&] { scene.begin(); });
  SUBCASE("and the device says so") {}
  SUBCASE("and the device refuses to say so once") {
    rig.sim().after_call(SimulatedCall::host_function, [&] { rig.sim().fail_call(SimulatedCall::capture_info, 1); });
  }
  scene.stream.launch_host_function([&runs, alive] { ++runs; });
  auto graph = std::make_optional(rig.sim().end_capture(scene.stream));
  auto exec = std::make_optional(graph->instantiate());
  graph.reset();
  for (int launches = 1; launches != 4; ++launches) {
    exec->launch(scene.stream);
    rig.settle(scene.stream);
    CHECK(runs == launches);
    CHECK(alive.use_count() == 2);
  }
  exec.reset();
  until([&] { return alive.use_count() == 1; });
}

TEST_CASE("a host function whose capture ends in the middle of its call runs once, in the stream") {
  const Scene scene;
  const Rig& rig = scene.rig;
  auto alive = std::make_shared<int>(0);
  int runs = 0;
  scene.begin();
  rig.sim().before_call(SimulatedCall::host_function, [&] { scene.drop(scene.end()); });
  scene.stream.launch_host_function([&runs, alive] { ++runs; });
  CHECK(alive.use_count() == 2);
  rig.settle(scene.stream);
  CHECK(runs == 1);
  until([&] { return alive.use_count() == 1; });
}

TEST_CASE("a host function that has run before its call ends, and a capture that has begun since, let go of it once") {
  const Scene scene;
  const Rig& rig = scene.rig;
  auto alive = std::make_shared<int>(0);
  int runs = 0;
  rig.sim().after_call(SimulatedCall::host_function, [&] {
    rig.sim().run_all();
    scene.begin();
  });
  scene.stream.launch_host_function([&runs, alive] { ++runs; });
  CHECK(runs == 1);
  scene.drop(scene.end());
  CHECK(runs == 1);
  CHECK(alive.use_count() == 1);
}

TEST_CASE("a host function that no device takes is gone at once, in a capture and outside") {
  for (const bool captures : {false, true}) {
    const Scene scene;
    auto alive = std::make_shared<int>(0);
    if (captures) scene.begin();
    scene.rig.sim().fail_call(SimulatedCall::host_function, 1);
    errc_text([&] { scene.stream.launch_host_function([alive] {}); }, Errc::device_error);
    if (captures) scene.drop(scene.end());
    CHECK(alive.use_count() == 1);
  }
}

TEST_CASE("where the device does not say whether a capture has taken the work, the memory is taken to be in both") {
  const auto keeps = [](bool begins) {
    const Scene scene;
    const Rig& rig = scene.rig;
    if (!begins) scene.begin();
    detail::GraphHandle graph = nullptr;
    int refusals = 0;
    const std::function<void()> refuse = [&] {
      rig.sim().fail_call(SimulatedCall::capture_info, 1);
      if (++refusals != 3) rig.sim().before_call(SimulatedCall::capture_info, refuse);
    };
    rig.heap.make_buffer<std::byte>(bytes).use_on(scene.stream, Access::device_reads,
                                                  [&](const std::byte*, NativeStream) {
                                                    begins ? scene.begin() : void(graph = scene.end());
                                                    rig.sim().before_call(SimulatedCall::capture_info, refuse);
                                                  });
    CHECK(refusals > 1);
    rig.sim().before_call(SimulatedCall::capture_info, nullptr);
    rig.sim().fail_call(SimulatedCall::capture_info, 0);
    if (begins) graph = scene.end();
    scene.drop(graph);
    (void)rig.heap.collect();
    CHECK(!rig.all_free());
    rig.settle(scene.stream);
    scene.stream.synchronize();
    rig.heap.drain();
    return !rig.all_free();
  };
  CHECK(!keeps(false));  // the stream's, until its work is done
  CHECK(keeps(true));    // lost, rather than used twice
}
