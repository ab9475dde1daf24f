// Rule 7, in the middle of a call: another thread may begin or end a capture at any moment. What it does there, a hook
// of the simulated device does here. No driver has such a hook.

#include <optional>
#include <vector>

#include "../support/rig.hpp"

using namespace support;

namespace {

constexpr std::size_t bytes = 4 * KiB;

enum class Whose { own, foreign };

/// A stream of which thole knows that it may capture, with device memory that is ready.
struct Scene {
  explicit Scene(Whose whose) : stream_(rig.device), view(stream_) {
    if (whose == Whose::foreign) {
      REQUIRE(rig.backend().create_stream(&foreign_).ok());
      view = detail::unwrap(detail::stream_from_native(rig.device, foreign_));
    }
    native = view.native();
    target.emplace(view, bytes);
    rig.settle(view);
  }
  ~Scene() {
    target.reset();
    if (foreign_ != nullptr) CHECK(rig.backend().destroy_stream(foreign_).ok());
  }
  Scene(const Scene&) = delete;
  Scene& operator=(const Scene&) = delete;

  // As a program captures behind thole's back: no call of thole's.
  void begin() const { REQUIRE(rig.backend().begin_capture(native, detail::CaptureMode::relaxed).ok()); }
  void end_and_drop() const {
    void* graph = nullptr;
    REQUIRE(rig.backend().end_capture(native, &graph).ok());
    REQUIRE(rig.backend().destroy_graph(graph).ok());
  }
  /// The next record of an event meets a capture that begins before it and ends behind it.
  void capture_in_next_record() const {
    rig.sim().before_call(SimulatedCall::record_event, [this] { begin(); });
    rig.sim().after_call(SimulatedCall::record_event, [this] { end_and_drop(); });
  }
  void copy_and_drop(int value) {
    rig.heap.make_buffer<std::byte>(bytes, std::byte(value)).async_to_device(view, target->span());
  }
  /// Takes all memory that can be had, and writes into it.
  void overwrite_what_is_free() const {
    std::vector<PinnedBuffer<std::byte>> others;
    while (auto made = rig.heap.try_make_buffer<std::byte>(bytes)) {
      fill(*made, 1);
      others.push_back(std::move(*made));
    }
    CHECK(!others.empty());
  }
  bool holds(int value) { return device_holds(rig, view, *target, value); }

  Rig rig;

 private:
  const Stream stream_;
  void* foreign_ = nullptr;

 public:
  StreamRef view;
  void* native = nullptr;
  std::optional<DeviceBuffer<std::byte>> target;
};

/// The graph keeps the memory that holds 7, however often it is launched, until it is gone.
void check_kept(Scene& scene, std::optional<SimulatedGraph>& graph) {
  const Rig& rig = scene.rig;
  std::optional<SimulatedGraph::Executable> exec(graph->instantiate());
  graph.reset();
  rig.settle(scene.view);
  CHECK(!rig.all_free());
  for (int launches = 0; launches != 3; ++launches) {
    scene.overwrite_what_is_free();
    exec->launch(scene.view);
    rig.settle(scene.view);
    CHECK(scene.holds(7));
  }
  CHECK(!rig.all_free());
  exec.reset();
  until([&] { return rig.all_free(); });
}

}  // namespace

TEST_CASE("a capture that begins between the check and the copy: the graph keeps the memory") {
  for (const auto whose : {Whose::own, Whose::foreign}) {
    Scene scene(whose);
    scene.rig.sim().before_call(SimulatedCall::copy, [&] { scene.begin(); });
    scene.copy_and_drop(7);
    REQUIRE(scene.view.capturing());
    auto graph = std::make_optional(scene.rig.sim().end_capture(scene.view));
    check_kept(scene, graph);
  }
}

TEST_CASE("a capture that begins before the function of use_on enqueues: the graph keeps the memory") {
  for (const auto whose : {Whose::own, Whose::foreign}) {
    Scene scene(whose);
    const Rig& rig = scene.rig;
    int seen = 0;
    struct Look {
      const std::byte* data;
      int* seen;
    } look{nullptr, &seen};
    rig.heap.make_buffer<std::byte>(bytes, std::byte{7})
        .use_on(scene.view, Access::device_reads, [&](const std::byte* data, NativeStream native) {
          look.data = data;
          scene.begin();
          const auto read = [](void* l) {
            *static_cast<Look*>(l)->seen = all_are(static_cast<Look*>(l)->data, bytes, 7);
          };
          REQUIRE(rig.backend().launch_host_function(native, read, &look).ok());
        });
    std::optional<SimulatedGraph> graph(rig.sim().end_capture(scene.view));
    auto exec = std::make_optional(graph->instantiate());
    rig.settle(scene.view);
    scene.overwrite_what_is_free();
    exec->launch(scene.view);
    rig.settle(scene.view);
    CHECK(seen == 1);
    exec.reset();
    graph.reset();
    until([&] { return rig.all_free(); });
  }
}

TEST_CASE("a capture that begins between the check and the copy: the graph keeps the device memory") {
  for (const auto whose : {Whose::own, Whose::foreign}) {
    Scene scene(whose);
    const Rig& rig = scene.rig;
    const auto buffer = rig.heap.make_buffer<std::byte>(bytes);
    rig.sim().before_call(SimulatedCall::copy, [&] { scene.begin(); });
    buffer.async_to_device(scene.view, scene.target->span());
    auto graph = std::make_optional(rig.sim().end_capture(scene.view));
    scene.target.reset();
    for (int round = 0; round != 2; ++round) {
      rig.settle(scene.view);
      (void)rig.heap.collect();
    }
    CHECK(rig.sim().device_bytes() == bytes);
    graph.reset();
    rig.until_device_memory_is_free();
  }
}

TEST_CASE("where the graph refuses memory that a capture took in the middle of a call, it is lost rather than reused") {
  Scene scene(Whose::own);
  scene.rig.sim().before_call(SimulatedCall::copy, [&] {
    scene.begin();
    scene.rig.sim().fail_call(SimulatedCall::retain_in_graph, 1);
  });
  scene.copy_and_drop(7);
  {
    auto graph = scene.rig.sim().end_capture(scene.view);
    auto exec = graph.instantiate();
    scene.overwrite_what_is_free();
    exec.launch(scene.view);
    scene.rig.settle(scene.view);
    CHECK(scene.holds(7));
  }
  CHECK(!scene.rig.all_free());
}

TEST_CASE("a capture that ends between the check and the copy: the use counts as work in the stream") {
  for (const auto whose : {Whose::own, Whose::foreign}) {
    Scene scene(whose);
    const Rig& rig = scene.rig;
    scene.begin();
    rig.sim().before_call(SimulatedCall::copy, [&] { scene.end_and_drop(); });
    scene.copy_and_drop(7);
    CHECK(!scene.view.capturing());
    CHECK(rig.sim().pending(scene.view) != 0);
    (void)rig.heap.collect();
    CHECK(!rig.all_free());
    scene.overwrite_what_is_free();
    rig.settle(scene.view);
    CHECK(scene.holds(7));
    CHECK(rig.all_free());
  }
}

TEST_CASE("a capture that ends and another that begins between the check and the copy: both are taken for true") {
  for (const auto whose : {Whose::own, Whose::foreign}) {
    Scene scene(whose);
    scene.begin();
    scene.rig.sim().before_call(SimulatedCall::copy, [&] {
      scene.end_and_drop();
      scene.begin();
    });
    scene.copy_and_drop(7);
    std::optional<SimulatedGraph> graph(scene.rig.sim().end_capture(scene.view));
    check_kept(scene, graph);
  }
}

TEST_CASE("a capture that begins and ends inside one record makes that event void, and the next one covers the copy") {
  Scene scene(Whose::own);
  const Rig& rig = scene.rig;
  scene.copy_and_drop(7);
  scene.capture_in_next_record();
  const auto records = rig.calls(SimulatedCall::record_event);
  CHECK(rig.heap.collect() == 0);
  REQUIRE(rig.calls(SimulatedCall::record_event) > records);  // the void one
  CHECK(!scene.view.capturing());
  rig.sim().run_all();
  CHECK(rig.heap.collect() == 0);  // finds it void, and records another
  (void)rig.heap.collect();
  rig.sim().run_all();
  CHECK(rig.heap.collect() == 1);
  CHECK(rig.all_free());
  CHECK(scene.holds(7));
}

TEST_CASE("drain, borrow_mut and synchronize go on behind an event that a capture made void") {
  for (const bool later_events : {false, true}) {
    Scene scene(Whose::own);
    const Rig& rig = scene.rig;
    auto kept = rig.heap.make_buffer<std::byte>(bytes, std::byte{7});
    kept.async_to_device(scene.view, scene.target->span());
    scene.copy_and_drop(7);
    scene.capture_in_next_record();
    const Event event = scene.view.record();
    if (later_events) {
      scene.copy_and_drop(7);
      (void)scene.view.native();
    }
    rig.sim().release(scene.view);  // from here on everything runs at once
    errc_text_of(event.try_ready(), Errc::capturing);
    CHECK(kept.try_borrow_mut().has_value());
    fill(kept, 2);
    kept.wait();
    rig.heap.drain();
    CHECK(rig.heap.stats().in_flight == 0);
    scene.view.synchronize();
    CHECK(scene.view.record().ready());
  }
}

TEST_CASE("however many events captures have made void, a wait and another stream go on behind them") {
  for (const bool other_stream : {false, true}) {
    Scene scene(Whose::own);
    const Rig& rig = scene.rig;
    const Stream other(rig.device);
    DeviceBuffer<std::byte> source(other, bytes);
    rig.settle(other);
    auto kept = rig.heap.make_buffer<std::byte>(bytes, std::byte{7});
    kept.async_to_device(scene.view, scene.target->span());
    for (int i = 0; i != 20; ++i) {
      scene.capture_in_next_record();
      (void)scene.view.record();
    }
    rig.sim().release(scene.view);  // from here on everything runs at once
    if (other_stream)
      kept.async_from_device(other, source.span());
    else
      rig.heap.drain();
    rig.settle(other);
    (void)kept.borrow_mut();
  }
}

TEST_CASE(
    "behind an event that a capture made void, in a stream that captures again, another stream's use says why not") {
  Scene scene(Whose::own);
  const Rig& rig = scene.rig;
  const Stream other(rig.device);
  DeviceBuffer<std::byte> source(other, bytes);
  rig.settle(other);
  auto kept = rig.heap.make_buffer<std::byte>(bytes, std::byte{7});
  kept.async_to_device(scene.view, scene.target->span());
  scene.capture_in_next_record();
  (void)scene.view.record();
  scene.begin();
  CHECK(has(errc_text([&] { kept.async_from_device(other, source.span()); }, Errc::capturing),
            "used in a stream that captures a graph now"));
  scene.end_and_drop();
  kept.async_from_device(other, source.span());
}

TEST_CASE("device memory that must wait to be freed invalidates no capture that begins in its stream meanwhile") {
  Scene scene(Whose::own);
  const Rig& rig = scene.rig;
  const Stream reads(rig.device), drops(rig.device);
  auto back = rig.heap.make_buffer<std::byte>(bytes);
  back.async_from_device(reads, scene.target->span());
  rig.sim().hold(reads);
  auto owned = std::make_shared<std::optional<DeviceBuffer<std::byte>>>(std::move(*scene.target));
  scene.target.reset();
  // Whoever tries first to free it, after it has asked for captures.
  std::atomic<bool> begun{false};
  drops.launch_host_function([&] {
    rig.sim().after_call(SimulatedCall::capture_info, [&] {
      scene.begin();
      begun = true;
    });
    owned->reset();
  });
  rig.sim().run_all();
  until([&] {
    (void)rig.heap.collect();
    return begun.load();
  });
  for (int i = 0; i != 3; ++i) (void)rig.heap.collect();
  (void)rig.sim().end_capture(scene.view);
  rig.sim().release(reads);
  rig.until_device_memory_is_free();
}

TEST_CASE("a stream that ends in the middle of a call through a view: what the call uses comes back") {
  for (const bool device_writes : {false, true})
    for (const bool drop : {false, true}) {
      const Rig rig;
      auto stream = std::make_optional<Stream>(rig.device);
      const StreamRef view(*stream);
      const Stream other(rig.device);
      DeviceBuffer<std::byte> target(other, bytes);
      rig.settle(other);
      auto buffer = std::make_optional(rig.heap.make_buffer<std::byte>(bytes, std::byte{7}));
      rig.sim().before_call(SimulatedCall::copy, [&] { stream.reset(); });
      if (device_writes)
        buffer->async_from_device(view, target.span());
      else
        buffer->async_to_device(view, target.span());
      REQUIRE(!stream.has_value());
      if (drop) buffer.reset();
      CHECK(!rig.all_free());
      rig.sim().run_all();
      if (!drop) CHECK(buffer->try_borrow_mut().has_value());
      buffer.reset();
      CHECK(rig.all_free());
    }
}

TEST_CASE("a stream that must wait behind an event that a capture made void waits for the next one") {
  Scene scene(Whose::own);
  const Rig& rig = scene.rig;
  const Stream other(rig.device);
  DeviceBuffer<std::byte> source(other, bytes);
  rig.heap.make_buffer<std::byte>(bytes, std::byte{2}).async_to_device(other, source.span());
  rig.settle(other);
  auto kept = rig.heap.make_buffer<std::byte>(bytes, std::byte{7});
  kept.async_to_device(scene.view, scene.target->span());
  scene.capture_in_next_record();
  (void)scene.view.record();  // takes the copy for covered
  Gate gate(rig, scene.view);
  kept.async_from_device(other, source.span());  // after the copy that reads
  rig.sim().run_all();
  CHECK(!kept.try_borrow().has_value());
  gate.open();
  rig.sim().run_all();
  CHECK(scene.holds(7));
  CHECK(all_are(kept, 2));
}

TEST_CASE("an event that a capture made void behind a foreign stream's use: the next call on the stream covers it") {
  Scene scene(Whose::foreign);
  const Rig& rig = scene.rig;
  auto kept = rig.heap.make_buffer<std::byte>(bytes, std::byte{7});
  scene.capture_in_next_record();
  kept.async_to_device(scene.view, scene.target->span());
  CHECK(!scene.view.capturing());
  rig.sim().run_all();
  CHECK(!kept.try_borrow_mut().has_value());  // no call on a foreign stream but in the program's own
  rig.settle(scene.view);
  CHECK(kept.try_borrow_mut().has_value());
  rig.heap.drain();
}

TEST_CASE("a stream whose last event a capture made void gets another one before it is destroyed") {
  const Rig rig;
  std::optional<Stream> stream(std::in_place, rig.device);
  void* const native = stream->native();
  DeviceBuffer<std::byte> target(*stream, bytes);
  rig.settle(*stream);
  rig.heap.make_buffer<std::byte>(bytes).async_to_device(*stream, target.span());
  rig.sim().before_call(SimulatedCall::record_event,
                        [&] { REQUIRE(rig.backend().begin_capture(native, detail::CaptureMode::relaxed).ok()); });
  rig.sim().after_call(SimulatedCall::record_event, [&] {
    void* graph = nullptr;
    REQUIRE(rig.backend().end_capture(native, &graph).ok());
    REQUIRE(rig.backend().destroy_graph(graph).ok());
  });
  stream.reset();
  rig.sim().run_all();
  (void)rig.heap.collect();
  CHECK(rig.all_free());
}
