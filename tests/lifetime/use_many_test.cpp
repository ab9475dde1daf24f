// Work that uses several buffers: one use of all of them, or of none. Counted calls, steps and refusals are the
// simulated device's.

#include <stdexcept>
#include <string>
#include <vector>

#include <thole/use_on.hpp>

#include "../support/rig.hpp"

using namespace support;

namespace {

using Bytes = PinnedBuffer<std::byte>;
constexpr std::size_t bytes = 4 * KiB;

/// A "kernel" over memory that the host can touch: runs in stream order.
template <class F>
void enqueue(const Rig& rig, NativeStream native, F f) {
  auto* const kept = new F(std::move(f));
  const auto run = [](void* function) {
    (*static_cast<F*>(function))();
    delete static_cast<F*>(function);
  };
  REQUIRE(rig.backend().launch_host_function(native, run, kept).ok());
}

const auto nothing = [](auto&&...) {};

}  // namespace

TEST_CASE("use_on of many hands over each pointer with its direction, and the stream, and returns what f returns") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  const auto a = rig.heap.make_buffer<int>(10);
  auto b = rig.heap.make_buffer<float>(3);
  DeviceBuffer<double> c(stream, 8);
  auto empty = rig.heap.make_buffer<char>(0);
  const auto returned =
      use_on(stream, reads(a), writes(b), reads(c.span().subspan(0, 4)), writes(c.span().subspan(4, 4)), writes(empty),
             [&](const int* pa, float* pb, const double* pc, double* part, char* none, NativeStream native) {
               CHECK(pa == a.unsynchronized_data());
               CHECK(pb == b.unsynchronized_data());
               CHECK(pc == c.span().native());
               CHECK(part == pc + 4);
               CHECK(none == nullptr);
               CHECK(native == stream.native());
               return std::string("returned");
             });
  CHECK(returned == "returned");
}

TEST_CASE("use_on of many returns references, and try_use_on its error or what f returned") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  auto a = rig.heap.make_buffer<int>(1), b = rig.heap.make_buffer<int>(1);
  int answer = 0;
  use_on(stream, reads(a), writes(b), [&](const int*, int*, NativeStream) -> int& { return answer; }) = 5;
  CHECK(answer == 5);
  const auto tried = try_use_on(stream, reads(a), reads(b), [](const int*, const int*, NativeStream) { return 7; });
  REQUIRE(tried);
  CHECK(*tried == 7);
  CHECK(try_use_on(stream, reads(a), [](const int*, NativeStream) {}).has_value());
}

TEST_CASE("each buffer of a use of many is in use in its direction until the work is done, and by it alone") {
  const Rig rig;
  const Stream stream(rig.device);
  auto read = rig.heap.make_buffer<std::byte>(bytes, std::byte{3});
  auto written = rig.heap.make_buffer<std::byte>(bytes, std::byte{1});
  use_on(stream, reads(read), writes(written), [&](const std::byte* from, std::byte* to, NativeStream native) {
    enqueue(rig, native, [=] { std::memcpy(to, from, bytes); });
  });
  stream.launch_host_function([] {});
  CHECK(read.try_borrow().has_value());
  errc_text_of(read.try_borrow_mut(), Errc::in_flight);
  errc_text_of(written.try_borrow(), Errc::in_flight);
  CHECK(rig.sim().step(stream, 2) == 2);  // the work and its event, and nothing behind them
  CHECK(read.try_borrow_mut().has_value());
  CHECK(all_are(written, 3));
}

TEST_CASE("a use of many costs one event, on a stream of thole's as on a foreign one") {
  const Rig rig;
  const Stream own(rig.device);
  void* native = nullptr;
  REQUIRE(rig.backend().create_stream(&native).ok());
  for (const StreamRef& stream : {StreamRef(own), *detail::stream_from_native(rig.device, native)}) {
    std::vector<Bytes> buffers;
    UseList uses;
    for (int i = 0; i != 100; ++i) uses.writes(buffers.emplace_back(rig.heap.make_buffer<std::byte>(64)));
    const auto before = rig.calls(SimulatedCall::record_event);
    uses.run_on(stream, nothing);
    CHECK(rig.calls(SimulatedCall::record_event) == before + 1);
    use_on(stream, reads(buffers[0]), reads(buffers[1]), writes(buffers[2]), nothing);
    CHECK(rig.calls(SimulatedCall::record_event) == before + 2);
    rig.sim().run_all();
    for (auto& buffer : buffers) CHECK(buffer.try_borrow_mut().has_value());
  }
  REQUIRE(rig.backend().destroy_stream(native).ok());
}

TEST_CASE("many buffers that another stream uses cost one wait for it, and the work comes after all of them") {
  const Rig rig;
  const Stream first(rig.device), second(rig.device), stream(rig.device);
  DeviceBuffer<std::byte> target(first, bytes);
  std::vector<Bytes> buffers;
  UseList uses;
  for (int i = 0; i != 20; ++i) {
    auto& buffer = buffers.emplace_back(rig.heap.make_buffer<std::byte>(bytes));
    buffer.use_on(i % 2 == 0 ? first : second, Access::device_writes, [&](std::byte* data, NativeStream native) {
      enqueue(rig, native, [=] { std::memset(data, i, bytes); });
    });
    uses.reads(buffer);
  }
  const auto before = rig.calls(SimulatedCall::wait_event);
  bool ran = false, right = true;
  uses.run_on(stream, [&](NativeStream native) {
    enqueue(rig, native, [&] {
      ran = true;
      for (int i = 0; i != 20; ++i) right = right && all_are(buffers[std::size_t(i)].unsynchronized_data(), bytes, i);
    });
  });
  CHECK(rig.calls(SimulatedCall::wait_event) == before + 2);
  rig.sim().step(stream, 100);
  CHECK(!ran);
  rig.sim().run_all();
  CHECK(ran);
  CHECK(right);
}

TEST_CASE("many streams whose uses a list must come after are all waited for") {
  const Rig rig;
  const Stream stream(rig.device);
  std::vector<Stream> streams;
  std::vector<Bytes> buffers;
  UseList uses;
  int done = 0;
  for (int i = 0; i != 50; ++i) {
    auto& buffer = buffers.emplace_back(rig.heap.make_buffer<std::byte>(64));
    buffer.use_on(streams.emplace_back(rig.device), Access::device_writes,
                  [&](std::byte*, NativeStream native) { enqueue(rig, native, [&] { ++done; }); });
    uses.writes(buffer);
  }
  int seen = -1;
  uses.run_on(stream, [&](NativeStream native) { enqueue(rig, native, [&] { seen = done; }); });
  for (int i = 49; i >= 0; --i) {
    CHECK(seen == -1);
    rig.sim().step(streams[std::size_t(i)], 10);
    rig.sim().step(stream, 100);
  }
  CHECK(seen == 50);
}

TEST_CASE("where one buffer forbids the work, nothing of it happens: f does not run and no other buffer is used") {
  const Rig rig(under_test());
  const Stream stream(rig.device), other(stepped());
  auto a = rig.heap.make_buffer<int>(4), b = rig.heap.make_buffer<int>(4);
  DeviceBuffer<int> c(stream, 4);
  rig.finish(stream);
  const auto calls = [&] {
    return rig.simulated() ? rig.calls(SimulatedCall::record_event) + rig.calls(SimulatedCall::wait_event) : 0;
  };
  const auto refused = [&](Errc wanted, const char* words, auto&&... uses) {
    const auto before = calls();
    const auto text = errc_text([&] { use_on(stream, writes(a), uses..., [](auto&&...) { FAIL("it ran"); }); }, wanted);
    CHECK(has(text, words));
    CHECK(!a.busy());
    CHECK(a.try_borrow_mut().has_value());
    CHECK(calls() == before);
  };
  {
    const auto borrow = b.borrow();
    refused(Errc::borrowed, "1 live Borrow", reads(c), writes(b));
  }
  {
    const auto borrow = b.borrow_mut();
    refused(Errc::borrowed, "live BorrowMut", reads(b));
  }
  auto moved = std::move(b);
  refused(Errc::moved_from, "use_on", reads(b));
  auto moved_device = std::move(c);
  refused(Errc::moved_from, "use_on", reads(c));
  refused(Errc::moved_from, "use_on", writes(c));
  DeviceBuffer<int> elsewhere(other, 4);
  refused(Errc::wrong_device, "another device", reads(elsewhere));
  DeviceSpan<int> dangling;
  {
    DeviceBuffer<int> gone(stream, 4);
    dangling = gone.span();
  }
  rig.finish(stream);
  refused(Errc::invalid_argument, "gone", reads(dangling));
}

TEST_CASE("memory of no elements is listed in any stream, wherever it came from") {
  const Rig rig;
  const Stream stream(rig.device), other(stepped());
  const DeviceBuffer<int> none(other, 0), some(other, 4);
  auto [front, back] = DeviceBuffer<int>(other, 4).split_at(4);
  UseList uses;
  uses.reads(none.span());
  uses.writes(back);
  uses.run_on(stream, [](NativeStream) {});
  use_on(stream, reads(none), writes(back), reads(some.span().subspan(4, 0)),
         [](const int*, int*, const int*, NativeStream) {});
}

TEST_CASE("a refused order leaves nothing behind") {
  const Rig rig;
  const Stream stream(rig.device), other(rig.device);
  auto a = rig.heap.make_buffer<int>(4), b = rig.heap.make_buffer<int>(4);
  b.use_on(other, Access::device_writes, nothing);
  rig.sim().fail_call(SimulatedCall::wait_event, 1);
  errc_text_of(try_use_on(stream, writes(a), reads(b), [](auto&&...) { FAIL("it ran"); }), Errc::device_error);
  rig.sim().run_all();
  CHECK(a.try_borrow_mut().has_value());
  CHECK(b.try_borrow_mut().has_value());
  CHECK(try_use_on(stream, writes(a), reads(b), nothing).has_value());
}

TEST_CASE("a buffer may be named twice to be read; one that is written is named once") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  auto a = rig.heap.make_buffer<int>(4);
  DeviceBuffer<int> c(stream, 4);
  CHECK(try_use_on(stream, reads(a), reads(a), reads(c), reads(c), nothing).has_value());
  const auto refused = [&](auto&&... uses) {
    const auto text =
        errc_text_of(try_use_on(stream, uses..., [](auto&&...) { FAIL("it ran"); }), Errc::invalid_argument);
    CHECK(has(text, "twice"));
  };
  refused(reads(a), writes(a));
  refused(writes(a), reads(a));
  refused(writes(a), writes(a));
  refused(reads(c), writes(c));
  refused(writes(c), reads(c));
  refused(writes(c), writes(c.span().subspan(3, 1)));
  refused(reads(c.span().subspan(0, 3)), reads(c.span().subspan(0, 1)), writes(c.span().subspan(2, 2)));
  // Parts of device memory that do not overlap are memory of their own.
  CHECK(try_use_on(stream, reads(c.span().subspan(0, 2)), writes(c.span().subspan(2, 2)), nothing).has_value());
  rig.finish(stream);
  CHECK(a.try_borrow_mut().has_value());
}

TEST_CASE("a use of many whose function throws is recorded, and passes the exception on") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  Gate gate(rig, stream);
  {
    auto a = rig.heap.make_buffer<std::byte>(rig.arena.capacity() / 2);
    auto b = rig.heap.make_buffer<std::byte>(rig.arena.capacity() / 2);
    CHECK_THROWS_WITH_AS(use_on(stream, reads(a), writes(b),
                                [&](const std::byte*, std::byte*, NativeStream native) {
                                  enqueue(rig, native, [] {});
                                  throw std::runtime_error("from the function");
                                }),
                         "from the function", std::runtime_error);
    CHECK(a.busy());
    CHECK(b.busy());
  }
  CHECK(!rig.all_free());
  gate.open();
  rig.finish(stream);
  CHECK(rig.all_free());
}

TEST_CASE("while the function of a use of many runs, each use is a borrow of its kind, and buffers may be dropped") {
  const Rig rig;
  const Stream stream(rig.device);
  auto a = std::make_unique<Bytes>(rig.heap.make_buffer<std::byte>(rig.arena.capacity() / 2));
  auto b = std::make_unique<Bytes>(rig.heap.make_buffer<std::byte>(rig.arena.capacity() / 2));
  auto c = std::make_unique<DeviceBuffer<std::byte>>(stream, bytes);
  Gate gate(rig, stream);
  use_on(stream, reads(*a), writes(*b), writes(*c),
         [&](const std::byte*, std::byte* to, std::byte*, NativeStream native) {
           CHECK(a->try_borrow().has_value());
           errc_text_of(a->try_borrow_mut(), Errc::borrowed);
           errc_text_of(b->try_borrow(), Errc::borrowed);
           enqueue(rig, native, [=] { *to = std::byte{1}; });
           a.reset();
           b.reset();
           c.reset();
           CHECK(!rig.all_free());
           CHECK(rig.sim().device_bytes() == bytes);
         });
  CHECK(!rig.all_free());
  gate.open();
  rig.sim().run_all();
  CHECK(rig.all_free());
  rig.until_device_memory_is_free();
}

TEST_CASE("in a capture the graph keeps all that a use of many names, and what is in flight is refused as a whole") {
  const Rig rig(under_test());
  const Stream stream(rig.device), other(rig.device);
  auto busy = rig.heap.make_buffer<std::byte>(64);
  Gate gate(rig, other);
  busy.use_on(other, Access::device_writes, nothing);
  int runs = 0;
  REQUIRE(rig.backend().begin_capture(stream.native(), detail::CaptureMode::global).ok());
  {
    auto a = rig.heap.make_buffer<std::byte>(bytes), b = rig.heap.make_buffer<std::byte>(bytes);
    const auto text =
        errc_text([&] { use_on(stream, writes(a), reads(busy), [](auto&&...) { FAIL("it ran"); }); }, Errc::in_flight);
    CHECK(has(text, "captured"));
    use_on(stream, writes(a), reads(b), [&](std::byte*, const std::byte*, NativeStream native) {
      const auto run = [](void* count) { ++*static_cast<int*>(count); };
      REQUIRE(rig.backend().launch_host_function(native, run, &runs).ok());
    });
  }
  void* made = nullptr;
  REQUIRE(rig.backend().end_capture(stream.native(), &made).ok());
  std::optional<Graph> graph(Graph::from_native(rig.device, static_cast<NativeGraph>(made)));
  { auto dropped = std::move(busy); }
  gate.open();
  rig.finish(other);
  CHECK(!rig.all_free());
  graph->instantiate().launch(stream);
  rig.finish(stream);
  CHECK(runs == 1);
  graph.reset();
  until([&] { return rig.all_free(); });
}

// ---- Lists

TEST_CASE("a list keeps what it names, and runs as often as is wanted") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  UseList uses;
  CHECK(uses.empty());
  {
    auto a = rig.heap.make_buffer<std::byte>(rig.arena.capacity() / 2, std::byte{1});
    auto b = rig.heap.make_buffer<std::byte>(rig.arena.capacity() / 2);
    DeviceBuffer<std::byte> c(stream, 16);
    uses.reads(a);
    uses.writes(b);
    uses.writes(c);
    uses.writes(rig.heap.make_buffer<std::byte>(0));
    CHECK(uses.size() == 4);
    for (int i = 0; i != 3; ++i) CHECK(uses.run_on(stream, [](NativeStream) { return 9; }) == 9);
    CHECK(uses.try_run_on(stream, [](NativeStream) {}).has_value());
    rig.settle(stream);
    CHECK(a.try_borrow_mut().has_value());  // it borrows nothing
  }
  rig.settle(stream);
  CHECK(!rig.all_free());
  auto moved = std::move(uses);
  CHECK(uses.empty());
  CHECK(moved.size() == 4);
  CHECK(!rig.all_free());
  moved.clear();
  CHECK(rig.all_free());
}

TEST_CASE("a list of nothing runs its function") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  bool ran = false;
  UseList().run_on(stream, [&](NativeStream native) { ran = native == stream.native(); });
  CHECK(ran);
}

TEST_CASE("a list says what cannot be listed, and what cannot run") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  auto a = rig.heap.make_buffer<int>(4);
  UseList uses;
  {
    auto moved = std::move(a);
    CHECK(has(errc_text([&] { uses.reads(a); }, Errc::moved_from), "UseList::reads"));
    a = std::move(moved);
  }
  DeviceSpan<int> dangling;
  { dangling = DeviceBuffer<int>(stream, 4).span(); }
  rig.finish(stream);
  CHECK(has(errc_text([&] { uses.writes(dangling); }, Errc::invalid_argument), "UseList::writes"));
  CHECK(uses.empty());
  uses.reads(a);
  uses.writes(a);
  CHECK(has(errc_text([&] { uses.run_on(stream, nothing); }, Errc::invalid_argument), "UseList::run_on"));
  CHECK(a.try_borrow_mut().has_value());
}

TEST_CASE("a thousand parts of one DeviceBuffer may be listed, to be read and to be written") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  DeviceBuffer<int> pool(stream, 2'000);
  UseList uses;
  for (std::size_t i = 0; i != 1'000; ++i)
    i % 2 == 0 ? uses.reads(pool.span().subspan(1'999 - i, 1)) : uses.writes(pool.span().subspan(i, 1));
  CHECK(uses.try_run_on(stream, nothing).has_value());
  uses.reads(pool.span().subspan(1, 1));
  errc_text_of(uses.try_run_on(stream, nothing), Errc::invalid_argument);
}
