// Launches that stand still: what a graph has written can be read, and used on other streams, while the launch has not
// gone on behind it; what needs the whole launch waits.

#include <atomic>
#include <memory>
#include <optional>

#include <thole/graph.hpp>

#include "../support/rig.hpp"

using namespace support;

namespace {

using Bytes = PinnedBuffer<std::byte>;
constexpr std::size_t bytes = 4 * KiB;

/// A graph that writes one buffer, stands still until it is let go on, and then writes another.
struct Standing {
  Rig rig{running_under_test()};
  Stream stream{rig.device};
  DeviceBuffer<std::byte> memory{stream, bytes};
  Bytes in = rig.heap.make_buffer<std::byte>(bytes, std::byte{1});
  Bytes first = rig.heap.make_buffer<std::byte>(bytes, std::byte{0});
  Bytes second = rig.heap.make_buffer<std::byte>(bytes, std::byte{0});
  std::shared_ptr<std::atomic<bool>> goes_on = std::make_shared<std::atomic<bool>>(true);
  std::shared_ptr<std::atomic<bool>> stands = std::make_shared<std::atomic<bool>>(false);
  std::optional<GraphExec> exec;

  explicit Standing(CaptureOptions options = {.completion = each_write}) {
    exec = capture(
               stream,
               [this] {
                 in.async_to_device(stream, memory.span());
                 first.async_from_device(stream, memory.span());
                 stream.launch_host_function([go = goes_on, there = stands] {
                   there->store(true, std::memory_order_release);
                   go->wait(false, std::memory_order_acquire);
                 });
                 second.async_from_device(stream, memory.span());
               },
               options)
               .instantiate();
    rig.settle(stream);
  }
  ~Standing() { go_on(); }
  Standing(const Standing&) = delete;
  Standing& operator=(const Standing&) = delete;
  void launch() {
    goes_on->store(false, std::memory_order_release);
    stands->store(false, std::memory_order_release);
    exec->launch(stream);
  }
  void go_on() const {
    goes_on->store(true, std::memory_order_release);
    goes_on->notify_all();
  }
};

/// Asked, and not waited for: where this fails it would wait for ever.
template <class F>
bool soon(F&& done) {
  constexpr int very_often = 1'000'000;
  for (int i = 0; i != very_often; ++i) {
    if (done()) return true;
    std::this_thread::yield();
  }
  return false;
}

}  // namespace

TEST_CASE("what a launch has written can be read while the launch stands still behind it, in every launch") {
  Standing graph;
  for (int round = 1; round != 20; ++round) {
    fill(graph.in, round);
    graph.launch();
    REQUIRE(soon([&] { return graph.first.try_borrow().has_value(); }));
    CHECK(all_are(graph.first, round));
    errc_text_of(graph.second.try_borrow(), Errc::in_flight);
    errc_text_of(graph.first.try_borrow_mut(), Errc::in_flight);
    errc_text_of(graph.in.try_borrow_mut(), Errc::in_flight);
    graph.go_on();
    CHECK(all_are(graph.second, round));
    graph.rig.settle(graph.stream);
    CHECK(graph.first.try_borrow_mut().has_value());
  }
}

TEST_CASE("another stream reads what a launch has written while the launch stands still, and who writes it waits") {
  Standing graph;
  const Stream reader(graph.rig.device), writer(graph.rig.device);
  DeviceBuffer<std::byte> target(reader, bytes), source(writer, bytes);
  graph.rig.settle(reader);
  graph.rig.settle(writer);
  fill(graph.in, 6);
  graph.launch();
  graph.first.async_to_device(reader, target.span());
  const Event read = reader.record();
  REQUIRE(soon([&] { return read.ready(); }));
  graph.first.async_from_device(writer, source.span());
  const Event written = writer.record();
  CHECK(!written.ready());
  graph.go_on();
  written.synchronize();
  CHECK(graph.second.try_borrow_for(forever).has_value());
  CHECK(device_holds(graph.rig, reader, target, 6));
}

TEST_CASE("without an event behind each write, all that a launch writes waits for it as a whole") {
  Standing graph({.completion = whole_launch});
  fill(graph.in, 4);
  graph.launch();
  REQUIRE(soon([&] { return graph.stands->load(std::memory_order_acquire); }));  // behind the first write
  errc_text_of(graph.first.try_borrow(), Errc::in_flight);
  errc_text_of(graph.second.try_borrow(), Errc::in_flight);
  CHECK(graph.in.try_borrow().has_value());
  graph.go_on();
  CHECK(all_are(graph.first, 4));
  CHECK(all_are(graph.second, 4));
}

TEST_CASE("a launch that stands still keeps what the program has let go of, and gives it back when it is done") {
  std::optional<Standing> graph(std::in_place);
  const Rig rig = graph->rig;
  graph->launch();
  { auto in = std::move(graph->in), first = std::move(graph->first), second = std::move(graph->second); }
  graph->exec.reset();
  (void)rig.heap.collect();
  CHECK(!rig.heap.try_make_buffer<std::byte>(rig.arena.capacity()).has_value());
  graph->go_on();
  until([&] { return rig.all_free(); });
}
