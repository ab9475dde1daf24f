// What is called and what is dropped in a function that the device calls back: no call of the device there, and nothing
// is lost. One case is of the simulated device's own: a kernel's function for the CPU.

#include <atomic>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "../support/gpu_gate.hpp"
#include "../support/rig.hpp"
#include "backend/simulated/machine.hpp"

using namespace support;

namespace {

constexpr std::size_t bytes = 4 * KiB;

/// Of the simulated devices'; a GPU refuses such calls, which thole then keeps as an error.
std::size_t calls_inside() { return detail::simulated::machine().calls_in_host_functions; }

/// Runs the function in the stream, and checks that the device heard nothing of it.
template <class F>
void in_host_function(const Rig& rig, const StreamRef& stream, F f) {
  const auto before = calls_inside();
  stream.launch_host_function(std::move(f));
  rig.finish(stream);
  CHECK(calls_inside() == before);
  const auto error = Device(rig.device).take_error();
  CHECK_MESSAGE(!error, (error ? error->what() : ""));
}

template <class Thing>
void dropped_in_host_function(const Rig& rig, const StreamRef& stream, Thing thing) {
  in_host_function(rig, stream, [held = std::make_shared<std::optional<Thing>>(std::move(thing))] { held->reset(); });
}

/// Until the library's own thread has destroyed one more event. A GPU does not say how many there are.
void until_destroyed(const Rig& rig, std::size_t before) {
  if (rig.simulated()) until([&] { return rig.calls(SimulatedCall::destroy_event) > before; });
}

std::size_t destroyed(const Rig& rig) { return rig.simulated() ? rig.calls(SimulatedCall::destroy_event) : 0; }

}  // namespace

TEST_CASE("a function that can only be moved may own buffers, and they go with it once it has run") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  auto buffer = rig.heap.make_buffer<std::byte>(rig.arena.capacity() / 2, std::byte{5});
  auto ran = std::make_shared<std::atomic<int>>(0);
  auto f = [ran, buffer = std::move(buffer)] { *ran += buffer.try_borrow().has_value() ? 1 : 100; };
  static_assert(!std::is_copy_constructible_v<decltype(f)>);
  SUBCASE("by a call that throws") { stream.launch_host_function(std::move(f)); }
  SUBCASE("by one that does not") { CHECK(stream.try_launch_host_function(std::move(f)).has_value()); }
  if (rig.simulated()) CHECK(!rig.all_free());
  rig.finish(stream);
  CHECK(*ran == 1);
  until([&] { return rig.all_free(); });
  CHECK(ran.use_count() == 1);
}

TEST_CASE("an empty function that can only be moved is refused, as any that is empty") {
  const Rig rig;
  const Stream stream(rig.device);
  CHECK(has(errc_text([&] { stream.launch_host_function(std::packaged_task<void()>()); }, Errc::invalid_argument),
            "no function"));
  struct Nothing {
    std::unique_ptr<int> owned;
    explicit operator bool() const { return false; }
    void operator()() const { FAIL_CHECK("ran"); }
  };
  errc_text_of(stream.try_launch_host_function(Nothing{}), Errc::invalid_argument);
  bool ran = false;
  stream.launch_host_function(std::packaged_task<void()>([&] { ran = true; }));
  rig.settle(stream);
  CHECK(ran);
}

TEST_CASE("an event that measures time and is dropped in a host function serves another") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  Event timed = stream.record({.timing = true});
  rig.finish(stream);
  CHECK(timed.ready());
  dropped_in_host_function(rig, stream, std::move(timed));
  const Event first = stream.record({.timing = true}), second = stream.record({.timing = true});
  rig.finish(stream);
  CHECK(second.elapsed_since(first).count() >= 0);
}

TEST_CASE("an event of a capture that is dropped in a host function is destroyed elsewhere") {
  const Rig rig(under_test());
  const Stream stream(rig.device), other(rig.device);
  std::optional<Event> captured;
  {
    const Graph graph = capture(stream, [&] { captured = stream.record(); });
  }
  const auto before = destroyed(rig);
  dropped_in_host_function(rig, other, std::move(*captured));
  until_destroyed(rig, before);
}

TEST_CASE("a part that many streams use and that is dropped in a host function asks nothing there, and comes back") {
  using Parts = std::vector<PinnedBuffer<std::byte>>;
  const Rig rig(under_test());
  std::vector<Stream> users;
  std::vector<DeviceBuffer<std::byte>> targets;
  Parts parts = rig.heap.make_buffer<std::byte>(2 * bytes).split({bytes, bytes});
  for (int i = 0; i != 6; ++i) {
    users.emplace_back(rig.device);
    targets.emplace_back(users.back(), bytes);
    rig.settle(users.back());
  }
  // Who drops the part is what all of its uses wait for: nothing else need run meanwhile, so that the test hangs on no
  // GPU whose streams share their connections.
  auto held = std::make_shared<std::optional<Parts>>();
  std::atomic<bool> used{false}, dropped{false}, opened{false};
  users[0].launch_host_function([&, held, wait = !rig.simulated()] {
    used.wait(false);
    held->reset();
    dropped = true;
    dropped.notify_all();
    if (wait) opened.wait(false);
  });
  const Event behind = users[0].record();
  for (std::size_t i = 0; i != users.size(); ++i) {
    if (i != 0) users[i].wait(behind);
    parts[0].async_to_device(users[i], targets[i].span());
  }
  parts.pop_back();
  held->emplace(std::move(parts));
  const auto before = calls_inside();
  used = true;
  used.notify_all();
  if (rig.simulated()) CHECK(rig.sim().step(users[0], 1) == 1);
  dropped.wait(false);
  CHECK(calls_inside() == before);
  CHECK(!rig.all_free());
  opened = true;
  opened.notify_all();
  for (const Stream& user : users) rig.settle(user);
  CHECK(!Device(rig.device).take_error().has_value());
  if (rig.simulated())
    CHECK(rig.all_free());
  else
    until([&] { return rig.all_free(); });  // a thread of thole's may have it in hand
}

TEST_CASE("handles of every kind that are dropped in a host function call no device there") {
  const Rig rig(under_test());
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

/// Until all that the device's memory is used for is `any`.
void until_only(const Rig& rig, const DeviceBuffer<std::byte>& any, std::size_t before) {
  until([&] {
    if (rig.simulated()) (void)rig.sim().run_all();
    (void)rig.heap.collect();
    if (rig.simulated()) (void)rig.sim().run_all();
    return used_device_bytes(rig, any) <= before;
  });
}

TEST_CASE("what the host function of a graph holds goes with the graph, without a call of the device there") {
  const Rig rig(under_test());
  if (!has_what_it_needs(rig)) return;
  const Stream stream(rig.device);
  const DeviceBuffer<std::byte> any(stream, bytes);
  rig.settle(stream);
  const auto in_use = used_device_bytes(rig, any);
  auto memory = std::make_shared<DeviceBuffer<std::byte>>(stream, 64 * MiB);
  rig.settle(stream);
  CHECK(used_device_bytes(rig, any) >= in_use + 64 * MiB);
  const auto before = calls_inside();
  {
    const Graph graph = capture(stream, [&] { stream.launch_host_function([held = std::move(memory)] {}); });
  }
  CHECK(calls_inside() == before);
  CHECK(!Device(rig.device).take_error().has_value());
  until_only(rig, any, in_use);
}

TEST_CASE("device memory whose last owner is a host function is freed, however often") {
  const Rig rig(under_test());
  if (!has_what_it_needs(rig)) return;
  constexpr std::size_t large = 256 * MiB;
  const Stream stream(rig.device);
  const DeviceBuffer<std::byte> any(stream, bytes);
  rig.settle(stream);
  const auto in_use = used_device_bytes(rig, any);
  for (int round = 0; round != 8; ++round) {
    auto memory = std::make_shared<DeviceBuffer<std::byte>>(stream, large);
    rig.settle(stream);
    CHECK(used_device_bytes(rig, any) >= large);  // what others had before may go meanwhile
    in_host_function(rig, stream, [held = std::move(memory)] {});
    until_only(rig, any, in_use);
  }
}

TEST_CASE("try_launch_host_function returns what launch_host_function throws, and drops the function then") {
  const Rig rig(under_test());
  Stream stream(rig.device);
  bool ran = false;
  CHECK(stream.try_launch_host_function([&] { ran = true; }).has_value());
  rig.finish(stream);
  CHECK(ran);
  const char* const call = "Stream::launch_host_function";
  const auto refused = [&](const StreamRef& where, Errc wanted) {
    auto held = std::make_shared<int>(1);
    CHECK(errc_text_of(where.try_launch_host_function([held] {}), wanted).starts_with(call));
    CHECK(errc_text([&] { where.launch_host_function([held] {}); }, wanted).starts_with(call));
    CHECK(held.use_count() == 1);
  };
  CHECK(errc_text_of(stream.try_launch_host_function({}), Errc::invalid_argument).starts_with(call));
  CHECK(errc_text([&] { stream.launch_host_function(nullptr); }, Errc::invalid_argument).starts_with(call));
  if (rig.simulated()) {
    for (int twice = 0; twice != 2; ++twice) {
      rig.sim().fail_call(SimulatedCall::host_function, 1);
      auto held = std::make_shared<int>(1);
      const auto launch = [&] { return stream.try_launch_host_function([held] {}); };
      if (twice == 0)
        CHECK(errc_text_of(launch(), Errc::device_error).starts_with(call));
      else
        CHECK(errc_text([&] { stream.launch_host_function([held] {}); }, Errc::device_error).starts_with(call));
      CHECK(held.use_count() == 1);
    }
  }
  const StreamRef view = stream;
  Stream moved = std::move(stream);
  refused(stream, Errc::moved_from);
  { const Stream gone(std::move(moved)); }
  refused(view, Errc::invalid_argument);
  if (!rig.simulated()) return;
  const Stream lost(rig.device);
  rig.sim().lose_device();
  refused(lost, Errc::device_lost);
}

TEST_CASE("calls that need the device are errors in a host function, which say so, and the device works on") {
  const Rig rig(under_test());
  const Stream stream(rig.device), other(rig.device);
  DeviceBuffer<std::byte> memory(other, bytes);
  auto buffer = rig.heap.make_buffer<std::byte>(bytes, std::byte{5});
  buffer.async_to_device(other, memory.span());
  const Graph graph = capture(other, [&] { buffer.async_to_device(other, memory.span()); });
  auto exec = graph.instantiate();
  const Event event = other.record();
  rig.settle(other);
  std::vector<std::pair<const char*, std::optional<Error>>> said;
  const auto note = [&](const char* call, const auto& result) {
    said.emplace_back(call, result.has_value() ? std::optional<Error>() : result.error());
  };
  bool thrown = false, trims = false, trims_pinned = false;
  (void)PinnedArena(rig.device, {.bytes = 3 * MiB});  // which stays pinned, for later arenas
  stream.launch_host_function([&] {
    note("try_use_on", buffer.try_use_on(other, Access::device_reads, [](const std::byte*, NativeStream) {}));
    note("try_launch_host_function", other.try_launch_host_function([] {}));
    note("try_record", other.try_record());
    note("try_wait", other.try_wait(event));
    note("Stream::try_make", Stream::try_make(rig.device));
    note("DeviceBuffer::try_make", DeviceBuffer<std::byte>::try_make(other, bytes));
    note("try_async_to_device", buffer.try_async_to_device(other, memory.span()));
    note("try_async_to_host", memory.try_async_to_host(other, rig.heap));
    note("GraphExec::try_launch", exec.try_launch(other));
    note("Graph::try_instantiate", graph.try_instantiate());
    const auto refused = [](auto&& call) {
      try {
        call();
      } catch (const Error& error) {
        return error.errc() == Errc::device_error && has(error.what(), "NotPermitted");
      }
      return false;
    };
    thrown = refused([&] { other.synchronize(); }) && refused([&] { other.launch_host_function([] {}); });
    trims = refused([&] { PinnedArena(rig.arena).trim(); });
    trims_pinned = refused([&] { Device(rig.device).trim_pinned(); });
  });
  rig.finish(stream);
  CHECK(thrown);
  CHECK(trims);
  CHECK(trims_pinned);
  CHECK(Device(rig.device).kept_pinned() >= 3 * MiB);
  (void)PinnedArena(rig.device, {.bytes = 3 * MiB});
  CHECK(Device(rig.device).trim_pinned() >= 3 * MiB);
  (void)PinnedArena(rig.device, {.bytes = 3 * MiB});
  CHECK(said.size() == 10);
  for (const auto& [call, error] : said) {
    INFO(std::string(call));
    REQUIRE(error.has_value());
    CHECK(static_cast<int>(error->errc()) == static_cast<int>(Errc::device_error));
    CHECK(has(error->what(), "NotPermitted"));
  }
  CHECK(device_holds(rig, other, memory, 5));
  CHECK(!Device(rig.device).take_error().has_value());
}

TEST_CASE("what waits to be freed, or to end, is left to others by who looks for memory in a function") {
  const Rig rig;
  const Stream made_on(rig.device), other(rig.device);
  for (int round = 0; round != 100; ++round) {
    {
      DeviceBuffer<std::byte> memory(made_on, bytes);
      use_on(other, writes(memory), [](std::byte*, NativeStream) {});
    }
    other.launch_host_function([&] {
      (void)rig.heap.collect();
      (void)rig.heap.try_make_buffer<std::byte>(rig.arena.capacity());
    });
    rig.finish(other);
  }
  rig.until_device_memory_is_free();
  if (const auto error = Device(rig.device).take_error()) FAIL_CHECK(std::string(error->what()));
}

TEST_CASE("who would wait for the device in a function that it called is refused, and says why") {
  const Rig rig(under_test());
  const Stream stream(rig.device), other(rig.device);
  const DeviceBuffer<std::byte> memory(stream, bytes);
  auto buffer = rig.heap.make_buffer<std::byte>(bytes);
  std::optional<DeviceBuffer<std::byte>> target(std::in_place, stream, bytes);
  rig.finish(stream);
  std::vector<std::string> said;
  std::optional<Event> end;
  std::atomic<bool> begun{false};
  const auto refused = [&](auto&& call) {
    try {
      call();
      said.emplace_back("not refused");
    } catch (const Error& error) {
      said.emplace_back(error.what());
    }
  };
  stream.launch_host_function([&, wait = !rig.simulated()] {
    if (wait) begun.wait(false);
    refused([&] { (void)buffer.borrow_mut(); });
    refused([&] { buffer.wait(); });
    refused([&] { rig.heap.drain(); });
    refused([&] { end->synchronize(); });
    refused([&] {
      if (auto done = stream.synchronize_for(forever); !done) throw Error(done.error());
    });
    refused([&] { (void)other.record(); });
    refused([&] { buffer.use_on(other, Access::device_reads, [](const std::byte*, NativeStream) {}); });
    refused([&] { use_on(other, writes(*target), [](std::byte*, NativeStream) {}); });
    if (!rig.heap.try_make_buffer_for<std::byte>(rig.arena.stats().capacity, forever)) said.emplace_back("no memory");
    if (!buffer.try_borrow_mut()) said.emplace_back("in flight");
  });
  buffer.async_to_device(stream, target->span());  // behind the function
  end = stream.record();
  begun = true;
  begun.notify_all();
  rig.finish(stream);
  REQUIRE(said.size() == 10);
  for (std::size_t i = 0; i != 8; ++i) CHECK_MESSAGE(has(said[i], "NotPermitted"), i, said[i]);
  CHECK(said[8] == "no memory");
  CHECK(said[9] == "in flight");
  if (const auto error = Device(rig.device).take_error()) FAIL_CHECK(std::string(error->what()));
}
