// Rule 6: streams that others made. No CUDA header is needed here: the door takes a void*. What CUDA has no answer to
// (a handle that is none, one that is used again at once), counts, refusals and streams held one by one are asked of
// the simulated device.

#include <optional>
#include <set>
#include <vector>

#include "../support/rig.hpp"

using namespace support;

namespace {

void* const legacy_stream = nullptr;
void* const per_thread_stream = reinterpret_cast<void*>(2);  // cudaStreamPerThread

StreamRef view(const Device& device, void* native) {
  return detail::unwrap(detail::stream_from_native(device, native));
}

/// For cases that use the per-thread default stream. Where a thread has done so on a GPU, a child that it forks crashes
/// in the driver when it calls exit() (580.159, and without thole), and the cases of fork_test.cpp fork from the thread
/// that runs this one.
template <class F>
void on_a_thread_of_its_own(F f) {
  std::thread(std::move(f)).join();
}

/// A stream made behind thole's back.
struct Foreign {
  explicit Foreign(const Rig& rig) : backend(rig.backend()) { REQUIRE(backend.create_stream(&native).ok()); }
  ~Foreign() { destroy(); }
  Foreign(const Foreign&) = delete;
  Foreign& operator=(const Foreign&) = delete;
  void destroy() {
    if (native != nullptr) CHECK(backend.destroy_stream(std::exchange(native, nullptr)).ok());
  }
  detail::DeviceBackend& backend;
  void* native = nullptr;
};

}  // namespace

TEST_CASE("two views of one native stream are equal and share its uses") {
  const Rig rig(under_test());
  const Foreign foreign(rig);
  const auto one = view(rig.device, foreign.native), two = view(rig.device, foreign.native);
  CHECK(one == two);
  CHECK(one.native() == foreign.native);
  DeviceBuffer<std::byte> target(one, 4 * KiB);
  const auto buffer = rig.heap.make_buffer<std::byte>(4 * KiB, std::byte{3});
  buffer.async_to_device(one, target.span());
  const auto back = target.async_to_host(two, rig.heap);
  if (rig.simulated()) CHECK(rig.calls(SimulatedCall::wait_event) == 0);  // one stream, one order
  rig.finish(two);
  CHECK(all_are(back, 3));
}

TEST_CASE("a view may be made of a stream that captures, and the capture goes on") {
  const Rig rig(under_test());
  const Stream own(rig.device);
  DeviceBuffer<std::byte> target(own, 4 * KiB);
  rig.settle(own);
  const Foreign foreign(rig);
  const auto before = view(rig.device, foreign.native);
  const auto buffer = rig.heap.make_buffer<std::byte>(4 * KiB, std::byte{3});
  for (const auto mode :
       {detail::CaptureMode::global, detail::CaptureMode::thread_local_, detail::CaptureMode::relaxed}) {
    REQUIRE(rig.backend().begin_capture(foreign.native, mode).ok());
    const auto one = view(rig.device, foreign.native), two = view(rig.device, foreign.native);
    CHECK(one == two);
    CHECK(one.id() == 0);
    buffer.async_to_device(one, target.span());
    void* graph = nullptr;
    REQUIRE(rig.backend().end_capture(foreign.native, &graph).ok());
    void* exec = nullptr;
    REQUIRE(rig.backend().instantiate_graph(graph, &exec).ok());
    REQUIRE(rig.backend().launch_graph(exec, foreign.native).ok());
    const auto back = target.async_to_host(before, rig.heap);
    rig.finish(before);
    CHECK(all_are(back, 3));
    // Nobody can know whether the one from the capture is still of this stream.
    CHECK(view(rig.device, foreign.native) == before);
    errc_text([&] { (void)one.record(); }, Errc::invalid_argument);
    REQUIRE(rig.backend().destroy_graph_exec(exec).ok());
    REQUIRE(rig.backend().destroy_graph(graph).ok());
  }
}

TEST_CASE("the legacy default stream's view stays what it is beside a capture that forbids its use") {
  on_a_thread_of_its_own([] {
    const Rig rig;
    const auto capturing = view(rig.device, per_thread_stream);
    for (const bool known : {false, true}) {
      std::optional<StreamRef> before;
      if (known) before = view(rig.device, legacy_stream);
      rig.sim().begin_capture(capturing, SimulatedCaptureMode::relaxed);
      if (known)
        CHECK(view(rig.device, legacy_stream) == *before);
      else
        errc_text([&] { (void)view(rig.device, legacy_stream); }, Errc::capturing);
      (void)rig.sim().end_capture(capturing);
      if (known) CHECK(view(rig.device, legacy_stream) == *before);
    }
  });
}

TEST_CASE("a view of a thole stream's native handle is that stream, also while it captures") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  void* const native = stream.native();
  REQUIRE(rig.backend().begin_capture(native, detail::CaptureMode::global).ok());
  CHECK(view(rig.device, native) == stream);
  void* graph = nullptr;
  REQUIRE(rig.backend().end_capture(native, &graph).ok());
  REQUIRE(rig.backend().destroy_graph(graph).ok());
}

TEST_CASE("a view of a thole stream's native handle is that stream") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  const auto same = view(rig.device, stream.native());
  CHECK(same == stream);
  DeviceBuffer<std::byte> target(stream, 4 * KiB);
  rig.heap.make_buffer<std::byte>(4 * KiB).async_to_device(same, target.span());
  if (rig.simulated()) CHECK(rig.calls(SimulatedCall::wait_event) == 0);
}

TEST_CASE("memory used on a foreign stream is not reused before the use is done") {
  const Rig rig(under_test());
  const Foreign foreign(rig);
  const auto stream = view(rig.device, foreign.native);
  DeviceBuffer<std::byte> target(stream, rig.arena.capacity());
  rig.finish(stream);
  Gate gate(rig, stream);
  rig.heap.make_buffer<std::byte>(rig.arena.capacity(), std::byte{2}).async_to_device(stream, target.span());
  CHECK(!rig.all_free());
  gate.open();
  rig.finish(stream);
  CHECK(rig.all_free());
  CHECK(device_holds(rig, stream, target, 2));
}

TEST_CASE("thole does not touch a foreign stream after a use: it may be destroyed at once") {
  const Rig rig(under_test());
  const Stream own(rig.device);
  DeviceBuffer<std::byte> target(own, 4 * KiB);
  rig.settle(own);
  Foreign foreign(rig);
  auto kept = rig.heap.make_buffer<std::byte>(4 * KiB, std::byte{1});
  {
    const auto stream = view(rig.device, foreign.native);
    kept.async_to_device(stream, target.span());
    rig.heap.make_buffer<std::byte>(4 * KiB).async_to_device(stream, target.span());
  }
  foreign.destroy();
  if (rig.simulated()) {
    CHECK(rig.heap.collect() == 0);
    CHECK(kept.busy());
    errc_text_of(kept.try_borrow_mut(), Errc::in_flight);
  }
  kept.async_to_device(own, target.span());
  rig.settle(own);
  kept.wait();
  rig.heap.drain();
  CHECK(rig.heap.stats().in_flight == 0);
  CHECK(!kept.busy());
}

TEST_CASE("every use on a foreign stream has its event at once") {
  const Rig rig;
  const Foreign foreign(rig);
  const auto stream = view(rig.device, foreign.native);
  DeviceBuffer<std::byte> target(stream, 4 * KiB);
  const auto buffer = rig.heap.make_buffer<std::byte>(4 * KiB);
  const auto before = rig.calls(SimulatedCall::record_event);
  for (int i = 0; i != 5; ++i) buffer.async_to_device(stream, target.span());
  CHECK(rig.calls(SimulatedCall::record_event) - before == 5);
}

TEST_CASE("where the event of a foreign stream's use cannot be made, the use is refused before it is enqueued") {
  const Rig rig;
  const Stream own(rig.device);
  DeviceBuffer<std::byte> target(own, 4 * KiB);
  const Foreign foreign(rig);
  const auto stream = view(rig.device, foreign.native);
  const auto buffer = rig.heap.make_buffer<std::byte>(4 * KiB);
  const EmptyStock no_event(rig);
  rig.sim().fail_call(SimulatedCall::create_event, 1);
  const auto pending = rig.sim().pending(stream);
  errc_text([&] { buffer.async_to_device(stream, target.span()); }, Errc::device_error);
  CHECK(rig.sim().pending(stream) == pending);
  buffer.async_to_device(stream, target.span());
}

TEST_CASE("the legacy and the per-thread default stream work") {
  on_a_thread_of_its_own([] {
    const Rig rig(under_test());
    for (void* const native : {legacy_stream, per_thread_stream}) {
      const auto stream = view(rig.device, native);
      DeviceBuffer<std::byte> target(stream, 4 * KiB);
      {
        const auto buffer = rig.heap.make_buffer<std::byte>(4 * KiB, std::byte{6});
        buffer.async_to_device(stream, target.span());
      }
      rig.finish(stream);
      CHECK(device_holds(rig, stream, target, 6));
      rig.heap.collect();
      CHECK(rig.heap.stats().in_flight == 0);
    }
    CHECK(view(rig.device, legacy_stream) == view(rig.device, legacy_stream));
    CHECK(!(view(rig.device, legacy_stream) == view(rig.device, per_thread_stream)));
  });
}

TEST_CASE("the per-thread default streams of two threads are two streams") {
  on_a_thread_of_its_own([] {
    const Rig rig(under_test());
    const auto here = view(rig.device, per_thread_stream);
    std::thread([&] {
      const auto there = view(rig.device, per_thread_stream);
      CHECK(!(here == there));
      CHECK(there == view(rig.device, per_thread_stream));
    }).join();
    CHECK(here == view(rig.device, per_thread_stream));
  });
}

TEST_CASE("a view of another thread's per-thread default stream says so in every call, and does nothing") {
  on_a_thread_of_its_own([] {
    const Rig rig(under_test());
    const auto theirs = view(rig.device, per_thread_stream);
    DeviceBuffer<std::byte> target(theirs, 4 * KiB);
    const auto done = theirs.record();
    rig.finish(theirs);
    std::thread([&] {
      auto buffer = rig.heap.make_buffer<std::byte>(4 * KiB);
      const auto refused = [&](auto&& call) {
        CHECK(has(errc_text(call, Errc::invalid_argument), "per-thread default stream of another thread"));
      };
      refused([&] { buffer.async_to_device(theirs, target.span()); });
      refused([&] { buffer.async_from_device(theirs, target.span()); });
      refused([&] { (void)buffer.async_to_device(theirs); });
      refused([&] { buffer.use_on(theirs, Access::device_writes, [](std::byte*, NativeStream) { FAIL_CHECK(""); }); });
      refused([&] { (void)target.async_to_host(theirs, rig.heap); });
      refused([&] { (void)DeviceBuffer<std::byte>(theirs, 1); });
      refused([&] { theirs.launch_host_function([] { FAIL_CHECK(""); }); });
      refused([&] { theirs.synchronize(); });
      refused([&] { (void)theirs.record(); });
      refused([&] { theirs.wait(done); });
      refused([&] { (void)theirs.capturing(); });
      refused([&] { (void)theirs.native(); });
      CHECK(!buffer.busy());
    }).join();
    rig.settle(theirs);
    rig.heap.drain();
  });
}

TEST_CASE("one thread's synchronize ends no use in the per-thread default stream of another") {
  on_a_thread_of_its_own([] {
    const Rig rig(running_under_test());
    const auto here = view(rig.device, per_thread_stream);
    DeviceBuffer<std::byte> target(here, 4 * KiB);
    here.synchronize();
    Gate gate(rig, here);
    auto buffer = rig.heap.make_buffer<std::byte>(4 * KiB, std::byte{4});
    buffer.async_to_device(here, target.span());
    std::thread([&] {
      const auto there = view(rig.device, per_thread_stream);
      const auto made = rig.heap.make_buffer<std::byte>(4 * KiB).async_to_device(there);
      there.synchronize();
      errc_text_of(buffer.try_borrow_mut(), Errc::in_flight);
    }).join();
    errc_text_of(buffer.try_borrow_mut(), Errc::in_flight);
    gate.open();
    fill(buffer, 5);
    CHECK(all_are(target.async_to_host(here, rig.heap), 4));
  });
}

TEST_CASE("many threads use their own per-thread default streams side by side") {
  const Rig rig(running_under_test(), {.bytes = 4 * MiB});
  std::vector<std::thread> threads;
  for (int number = 1; number != 7; ++number)
    threads.emplace_back([&rig, number] {
      const auto first = view(rig.device, per_thread_stream);
      for (int round = 0; round != 100; ++round) {
        const auto mine = view(rig.device, per_thread_stream);
        CHECK(mine == first);
        auto target = rig.heap.make_buffer<std::byte>(4 * KiB, std::byte(number)).async_to_device(mine);
        const auto back = target.async_to_host(first, rig.heap);
        const auto event = first.record();
        CHECK(all_are(back, number));
        if (round % 10 == 0) mine.synchronize();
        if (round % 10 == 0) CHECK(event.ready());
      }
    });
  for (auto& thread : threads) thread.join();
  rig.heap.drain();
  CHECK(rig.heap.stats().in_flight == 0);
}

TEST_CASE("a view that a second thread makes of its per-thread default stream closes nothing of the first") {
  const Rig rig;
  const auto here = view(rig.device, per_thread_stream);
  DeviceBuffer<std::byte> target(here, 4 * KiB);
  rig.settle(here);
  auto buffer = rig.heap.make_buffer<std::byte>(4 * KiB, std::byte{4});
  // In the middle of a call of the first thread's, too.
  rig.sim().before_call(SimulatedCall::copy,
                        [&] { std::thread([&] { (void)view(rig.device, per_thread_stream); }).join(); });
  buffer.async_to_device(here, target.span());
  CHECK(here == view(rig.device, per_thread_stream));
  errc_text_of(buffer.try_borrow_mut(), Errc::in_flight);
  rig.sim().run_all();
  CHECK(buffer.try_borrow_mut().has_value());
  (void)here.record();
  CHECK(device_holds(rig, here, target, 4));
}

TEST_CASE("a stream that was destroyed and one made later with the same handle are two streams") {
  const Rig rig;
  const Stream own(rig.device);
  DeviceBuffer<std::byte> target(own, rig.arena.capacity());
  rig.settle(own);
  Foreign first(rig);
  void* const value = first.native;
  const auto old = view(rig.device, value);
  rig.heap.make_buffer<std::byte>(rig.arena.capacity()).async_to_device(old, target.span());
  first.destroy();
  const Foreign second(rig);
  REQUIRE(second.native == value);  // the simulated device gives handles out again at once, as CUDA may
  const auto fresh = view(rig.device, value);
  CHECK(!(fresh == old));
  fresh.launch_host_function([] {});
  (void)fresh.record();
  rig.sim().step(fresh, 100);
  CHECK(!rig.all_free());  // done on the new stream says nothing about the old one
  const auto text = errc_text([&] { old.launch_host_function([] {}); }, Errc::invalid_argument);
  CHECK(has(text, "another stream has its native handle now"));
  rig.sim().run_all();
  CHECK(rig.all_free());
}

TEST_CASE("a native stream of another device is refused") {
  const Rig rig, other;
  const Stream stream(other.device);
  const auto text = errc_text_of(detail::stream_from_native(rig.device, stream.native()), Errc::wrong_device);
  CHECK(has(text, "from_native"));
}

TEST_CASE("a native handle that is none is refused") {
  const Rig rig;
  int nothing = 0;
  const auto text = errc_text_of(detail::stream_from_native(rig.device, &nothing), Errc::device_error);
  CHECK(has(text, "from_native"));
}

TEST_CASE("a device ends though an event of a foreign stream is not done: nobody is left to ask for it") {
  auto rig = std::make_unique<Rig>();
  auto sim = rig->sim();
  const std::weak_ptr<detail::DeviceCore> core = detail::HandleAccess::core(rig->device);
  {
    const Foreign foreign(*rig);
    (void)view(rig->device, foreign.native).record();
  }
  rig.reset();
  until([&] { return core.expired(); });
  sim.run_all();
}

TEST_CASE("many foreign streams, each destroyed after one use, leave nothing behind") {
  const Rig rig(under_test());
  const Stream own(rig.device);
  DeviceBuffer<std::byte> target(own, 1 * KiB);
  rig.settle(own);
  const auto live_events = [&] { return rig.simulated() ? rig.sim().live_events() : 0; };
  const auto events = live_events();
  for (int i = 0; i != 300; ++i) {
    const Foreign foreign(rig);
    const auto stream = view(rig.device, foreign.native);
    rig.heap.make_buffer<std::byte>(1 * KiB).async_to_device(stream, target.span());
    rig.finish(stream);
    (void)rig.heap.collect();
  }
  CHECK(rig.heap.stats().in_flight == 0);
  CHECK(live_events() == events);
}

TEST_CASE("a foreign stream may go with its device buffers, also where a graph keeps their memory") {
  for (const bool in_flight : {false, true}) {
    const Rig rig;
    std::optional<Foreign> foreign(std::in_place, rig);
    const Stream own(rig.device);
    std::optional<SimulatedGraph> graph;
    auto kept = rig.heap.make_buffer<std::byte>(4 * KiB, std::byte{5});
    {
      const auto theirs = view(rig.device, foreign->native);
      auto memory = std::make_optional<DeviceBuffer<std::byte>>(theirs, 4 * KiB);
      rig.settle(theirs);
      rig.sim().begin_capture(own);
      rig.heap.make_buffer<std::byte>(4 * KiB).async_to_device(own, memory->span());
      graph = rig.sim().end_capture(own);
      rig.sim().hold(theirs);
      if (in_flight) kept.async_to_device(theirs, DeviceSpan<std::byte>(memory->span()));
    }
    foreign->destroy();
    // The next stream may have the handle of the one that is gone, and nothing in it.
    const Foreign next(rig);
    graph.reset();
    (void)rig.heap.collect();
    rig.sim().step(view(rig.device, next.native), 10);
    (void)rig.heap.collect();
    if (in_flight) errc_text_of(kept.try_borrow_mut(), Errc::in_flight);
    rig.sim().run_all();
    for (int look = 0; look != 3; ++look) {
      (void)rig.heap.collect();
      rig.sim().run_all();
    }
    CHECK(kept.try_borrow_mut().has_value());
    rig.until_device_memory_is_free();
  }
}
