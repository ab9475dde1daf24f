// Const members of one object may be called by many threads at once, as with the standard library's. Streams that are
// held one by one, and hooks in the middle of a call, are the simulated device's.

#include <array>
#include <thread>
#include <vector>

#include "../support/rig.hpp"

using namespace support;

namespace {

/// Calls `f(index)` on so many threads, all of which begin at the same moment.
template <class F>
void on_threads(std::size_t count, F&& f) {
  std::atomic<std::size_t> there{0};
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i != count; ++i)
    threads.emplace_back([&, i] {
      there.fetch_add(1);
      until([&] { return there.load() == count; });
      f(i);
    });
  for (auto& thread : threads) thread.join();
}

}  // namespace

TEST_CASE("borrows that many threads take of one buffer are all counted") {
  const Rig rig(under_test());
  auto buffer = rig.heap.make_buffer<std::byte>(rig.arena.capacity(), std::byte{1});
  std::atomic<bool> whole{true};
  for (int round = 0; round != 300; ++round) {
    std::array<std::optional<Borrow<std::byte>>, 4> kept;
    on_threads(kept.size(), [&](std::size_t i) {
      for (int n = 0; n != 50; ++n)
        if (const auto borrow = std::as_const(buffer).borrow(); borrow[0] != std::byte{1}) whole = false;
      kept[i] = std::as_const(buffer).borrow();
    });
    CHECK(!buffer.try_borrow_mut().has_value());
    for (std::size_t i = 0; i != kept.size(); ++i) {
      CHECK(!buffer.try_borrow_mut().has_value());
      kept[i].reset();
    }
    CHECK(buffer.try_borrow_mut().has_value());
  }
  CHECK(whole);
}

TEST_CASE("the last of many threads that end borrows of a dropped buffer frees it, once") {
  const Rig rig(under_test());
  for (int round = 0; round != 300; ++round) {
    auto buffer = std::make_unique<PinnedBuffer<std::byte>>(rig.heap.make_buffer<std::byte>(rig.arena.capacity()));
    std::array<std::optional<Borrow<std::byte>>, 3> kept;
    for (auto& borrow : kept) borrow = buffer->borrow();
    on_threads(kept.size() + 1, [&](std::size_t i) {
      if (i == kept.size())
        buffer.reset();
      else
        kept[i].reset();
    });
    CHECK(rig.all_free());
  }
  CHECK(rig.heap.stats().freed_at_once >= 300);
}

TEST_CASE("a buffer that many threads copy to their own streams waits for each of the copies") {
  const Rig rig;
  std::vector<Stream> streams;
  for (int i = 0; i != 6; ++i) streams.emplace_back(rig.device);
  for (int round = 0; round != 100; ++round) {
    auto buffer = rig.heap.make_buffer<std::byte>(4 * KiB, std::byte(round));
    std::vector<std::optional<DeviceBuffer<std::byte>>> copies(streams.size());
    on_threads(streams.size(), [&](std::size_t i) { copies[i] = std::as_const(buffer).async_to_device(streams[i]); });
    for (const auto& stream : streams) rig.sim().hold(stream);
    for (std::size_t i = 0; i != streams.size(); ++i) {
      errc_text_of(buffer.try_borrow_mut(), Errc::in_flight);
      (void)streams[i].native();  // an event behind all of it
      rig.sim().release(streams[i]);
    }
    CHECK(buffer.try_borrow_mut().has_value());
  }
}

TEST_CASE("copies and borrows of one buffer on many threads leave nothing behind") {
  const Rig rig(running_under_test(), {.bytes = MiB});
  auto buffer = rig.heap.make_buffer<std::byte>(4 * KiB, std::byte{5});
  on_threads(4, [&](std::size_t i) {
    const Stream stream(rig.device);
    for (int n = 0; n != 200; ++n) {
      if (i % 2 == 0) (void)std::as_const(buffer).async_to_device(stream);
      CHECK(std::as_const(buffer).borrow()[0] == std::byte{5});
    }
    stream.synchronize();
  });
  buffer.wait();
  CHECK(buffer.try_borrow_mut().has_value());
  CHECK(!buffer.busy());
}

TEST_CASE("while a copy is being submitted no other call submits work that it would have to be ordered with") {
  const Rig rig;
  const Stream stream(rig.device), other(rig.device);
  auto buffer = rig.heap.make_buffer<std::byte>(4 * KiB, std::byte{1});
  DeviceBuffer<std::byte> target(stream, 4 * KiB);
  Graph graph = capture(other, [&] { buffer.use_on(other, Access::device_writes, [](std::byte*, NativeStream) {}); });
  auto exec = graph.instantiate();
  UseList list;
  list.writes(buffer);
  rig.settle(stream);
  // What another thread does in the middle of the copy.
  std::optional<Result<void>> launched;
  bool listed = false;
  rig.sim().before_call(SimulatedCall::copy, [&] {
    launched = exec.try_launch(other);
    errc_text([&] { list.run_on(other, [](NativeStream) {}); }, Errc::borrowed);
    listed = true;
  });
  SUBCASE("to device memory that is there") { buffer.async_to_device(stream, target.span()); }
  SUBCASE("to device memory that the copy makes") { target = buffer.async_to_device(stream); }
  SUBCASE("to the host") { buffer.async_from_device(stream, target.span()); }
  REQUIRE(launched.has_value());
  CHECK(listed);
  errc_text_of(*launched, Errc::borrowed);
  CHECK(exec.try_launch(other).has_value());
  rig.sim().run_all();
  CHECK(buffer.try_borrow_mut().has_value());
}

TEST_CASE("work that another thread submits while a borrow begins is in flight for that borrow") {
  for (const bool launches : {true, false})
    for (const bool writes : {true, false}) {
      CAPTURE(launches);
      CAPTURE(writes);
      const Rig rig;
      const Stream stream(rig.device), other(rig.device);
      auto buffer = rig.heap.make_buffer<std::byte>(4 * KiB, std::byte{1});
      const DeviceBuffer<std::byte> memory(stream, 4 * KiB);
      auto exec = capture(other, [&] { buffer.async_from_device(other, memory.span()); }).instantiate();
      UseList list;
      list.writes(buffer);
      // Done, but not known to be: the borrow asks, and then another thread is faster.
      const auto just_done = [&] {
        buffer.async_from_device(stream, memory.span());
        rig.settle(stream);
        rig.sim().after_call(SimulatedCall::query_event, [&] {
          if (launches)
            CHECK(exec.try_launch(other).has_value());
          else
            list.run_on(other, [](NativeStream) {});
        });
      };
      just_done();
      if (writes)
        errc_text_of(buffer.try_borrow_mut(), Errc::in_flight);
      else
        errc_text_of(buffer.try_borrow(), Errc::in_flight);
      rig.settle(other);
      just_done();
      if (writes)
        errc_text_of(buffer.try_borrow_mut_for(std::chrono::nanoseconds(0)), Errc::timed_out);
      else
        errc_text_of(buffer.try_borrow_for(std::chrono::nanoseconds(0)), Errc::timed_out);
      rig.settle(other);
      CHECK(buffer.try_borrow_mut().has_value());
    }
}

TEST_CASE("device memory, a list of uses, a graph, an event and a view may be shared by many threads") {
  constexpr std::size_t threads = 4, rounds = 100, bytes = 4 * KiB;
  const Rig rig(running_under_test(), {.bytes = 4 * MiB});
  const Stream stream(rig.device);
  const StreamRef view(stream);
  const auto source = rig.heap.make_buffer<std::byte>(bytes, std::byte{7});
  const DeviceBuffer<std::byte> memory = source.async_to_device(stream);
  const Event copied = stream.record();
  auto target = rig.heap.make_buffer<std::byte>(bytes);
  const Graph graph = capture(stream, [&] { target.async_from_device(stream, memory.span()); });
  UseList kept;
  kept.reads(source);
  kept.reads(memory);
  const UseList& list = kept;
  std::atomic<std::size_t> wrong{0};
  on_threads(threads, [&](std::size_t) {
    const Stream own(rig.device);
    GraphExec exec = graph.instantiate();
    for (std::size_t i = 0; i != rounds; ++i) {
      own.wait(copied);
      const auto back = memory.async_to_host(own, rig.heap);
      list.run_on(own, [](NativeStream) {});
      list.run_on(view, [](NativeStream) {});
      const Event here = view.record();
      // Another thread may be launching the same copy, which writes.
      if (const auto launched = exec.try_launch(own); !launched && launched.error().errc() != Errc::borrowed) ++wrong;
      here.synchronize();
      if (!copied.ready() || !here.ready() || view.capturing() || memory.size() != bytes) ++wrong;
      const auto borrow = back.borrow();
      if (!all_are(borrow.data(), bytes, 7)) ++wrong;
    }
  });
  CHECK(wrong == 0);
  target.wait();
  CHECK(all_are(target, 7));
}
