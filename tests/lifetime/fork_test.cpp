// A forked child beside busy threads: it lets go of what its parent made and exits, at once and quietly; every other
// call on that says whose it is; new devices work. A sanitizer's own threads and locks do not live through a fork. CUDA
// cannot be used in a child: all of this is asked of simulated devices, and contract/fork_test.cpp asks a GPU what it
// says there.

#include <algorithm>
#include <array>
#include <cstdio>
#include <functional>
#include <future>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <thole/graph.hpp>

#include "../support/child.hpp"
#include "../support/rig.hpp"
#include "../support/sanitized.hpp"
#include "blocks/moving_blocks.hpp"

using namespace support;

namespace {

using Bytes = PinnedBuffer<std::byte>;

constexpr std::size_t bytes = 4 * KiB;
constexpr int forks = 20;

/// One object of each kind, some of them in flight, on a device that runs by itself.
struct Objects {
  Objects()
      : device(Device::simulated()),
        arena(PinnedArena(device, {.bytes = 4 * MiB})),
        heap(*arena),
        stream(device),
        target(std::in_place, *stream, bytes),
        idle(heap->make_buffer<std::byte>(bytes)),
        read(heap->make_buffer<std::byte>(bytes)),
        written(heap->make_buffer<std::byte>(bytes)),
        in_flight(heap->make_buffer<std::byte>(bytes)),
        borrow(read->borrow()),
        borrow_mut(written->borrow_mut()),
        event(stream->record()) {
    const Stream other(device);
    DeviceBuffer<std::byte> memory(other, bytes);
    other.synchronize();
    device.simulation().begin_capture(other);
    heap->make_buffer<std::byte>(bytes).async_to_device(other, memory.span());
    graph = device.simulation().end_capture(other);
    exec = graph->instantiate();
    device.simulation().hold(*stream);
    in_flight->async_to_device(*stream, target->span());
    later = stream->record();
  }
  ~Objects() {
    if (stream) device.simulation().release(*stream);
  }
  Objects(const Objects&) = delete;
  Objects& operator=(const Objects&) = delete;

  /// In one order or in the opposite one.
  void drop_all(bool backwards) {
    std::array<std::function<void()>, 14> drops{
        [&] { arena.reset(); },  [&] { heap.reset(); },       [&] { stream.reset(); },  [&] { target.reset(); },
        [&] { idle.reset(); },   [&] { read.reset(); },       [&] { written.reset(); }, [&] { in_flight.reset(); },
        [&] { borrow.reset(); }, [&] { borrow_mut.reset(); }, [&] { event.reset(); },   [&] { later.reset(); },
        [&] { graph.reset(); },  [&] { exec.reset(); },
    };
    if (backwards) std::reverse(drops.begin(), drops.end());
    for (const auto& drop : drops) drop();
  }

  Device device;
  std::optional<PinnedArena> arena;
  std::optional<PinnedHeap> heap;
  std::optional<Stream> stream;
  std::optional<DeviceBuffer<std::byte>> target;
  std::optional<Bytes> idle, read, written, in_flight;
  std::optional<Borrow<std::byte>> borrow;
  std::optional<BorrowMut<std::byte>> borrow_mut;
  std::optional<Event> event, later;
  std::optional<SimulatedGraph> graph;
  std::optional<SimulatedGraph::Executable> exec;
};

/// Threads that make, copy and drop all the time, with the objects' heap and on its device.
class Busy {
 public:
  explicit Busy(const Objects& objects) {
    for (int i = 0; i != 2; ++i)
      threads_.emplace_back([this, &heap = *objects.heap, device = objects.device] {
        while (!stop_.load(std::memory_order_relaxed)) {
          const Stream stream(device);
          std::vector<Bytes> buffers;
          for (int n = 0; n != 50; ++n) {
            auto made = heap.try_make_buffer<std::byte>(bytes);
            if (!made) continue;
            (void)made->async_to_device(stream);
            buffers.push_back(std::move(*made));
          }
          buffers.clear();
          stream.synchronize();
          rounds_.fetch_add(1, std::memory_order_relaxed);
        }
      });
  }
  ~Busy() {
    stop_.store(true, std::memory_order_relaxed);
    for (auto& thread : threads_) thread.join();
  }
  Busy(const Busy&) = delete;
  Busy& operator=(const Busy&) = delete;
  /// Until they have done something more: the next fork meets them elsewhere.
  void go_on() const {
    until([this, from = rounds_.load()] { return rounds_.load() != from; });
  }

 private:
  std::atomic<bool> stop_{false};
  std::atomic<int> rounds_{0};
  std::vector<std::thread> threads_;
};

/// Whether the call says that the object was made by another process; prints where it does not.
bool is_refused(const char* what, const std::function<void()>& call) {
  std::string got = "no error";
  try {
    call();
  } catch (const Error& error) {
    got = error.what();
    if (error.errc() == Errc::device_lost && got.find("made by another process") != std::string::npos) return true;
  } catch (const std::exception& error) {
    got = error.what();
  }
  std::fprintf(stderr, "in a forked child, %s: %s\n", what, got.c_str());
  return false;
}

/// What a program does with a device, from the beginning to the end; 0 where all of it works.
int use_device(const Device& device) {
  const PinnedArena arena(device, {.bytes = MiB});
  const PinnedHeap heap(arena);
  const Stream stream(device);
  auto buffer = heap.make_buffer<std::byte>(bytes, std::byte{6});
  auto there = buffer.async_to_device(stream);
  const Event event = stream.record();
  const auto back = there.async_to_host(stream, heap);
  event.synchronize();
  if (!event.ready() || !all_are(back, 6)) return 1;
  fill(buffer, 7);
  { const auto dropped = std::move(buffer); }
  stream.synchronize();
  heap.drain();
  if (heap.stats().in_flight != 0 || heap.stats().in_use != bytes) return 2;
  bool ran = false;
  stream.launch_host_function([&ran] { ran = true; });
  stream.synchronize();
  std::vector<Graph> graphs;  // so many that each lock for graphs that there may be is somebody's
  for (int i = 0; i != 64; ++i) graphs.push_back(capture(stream, [&] { stream.launch_host_function([] {}); }));
  for (Graph& graph : graphs) graph.instantiate().launch(stream);
  stream.synchronize();
  return ran ? 0 : 3;
}

int use_a_new_device() { return use_device(Device::simulated()); }

}  // namespace

TEST_CASE("a child of a process with busy threads exits at once" * doctest::skip(THOLE_TEST_SANITIZED)) {
  Objects objects;
  const Busy busy(objects);
  for (int i = 0; i != forks; ++i) {
    busy.go_on();
    CHECK(in_child([] { return 0; }) == 0);
  }
}

TEST_CASE("a child drops whatever its parent made, in any order, and exits" * doctest::skip(THOLE_TEST_SANITIZED)) {
  Objects objects;
  const Busy busy(objects);
  for (int i = 0; i != forks; ++i) {
    busy.go_on();
    CHECK(in_child([&] {
            objects.drop_all(i % 2 == 0);
            return 0;
          }) == 0);
  }
  CHECK(objects.in_flight->busy());  // the parent's are as they were
}

TEST_CASE("every other call of a child on what its parent made says that another process made it" *
          doctest::skip(THOLE_TEST_SANITIZED)) {
  Objects objects;
  const Device& device = objects.device;
  auto& arena = objects.arena;
  const auto& heap = objects.heap;
  const auto& stream = objects.stream;
  auto& target = objects.target;
  const auto& later = objects.later;
  auto &idle = objects.idle, &in_flight = objects.in_flight;
  const std::vector<std::pair<const char*, std::function<void()>>> calls{
      {"Stream", [&] { const Stream made(device); }},
      {"PinnedArena", [&] { const PinnedArena made(device, {.bytes = MiB}); }},
      {"PinnedHeap", [&] { const PinnedHeap made(*arena); }},
      {"DeviceBuffer", [&] { const DeviceBuffer<std::byte> made(*stream, bytes); }},
      {"from_native", [&] { (void)detail::unwrap(detail::stream_from_native(device, nullptr)); }},
      {"PinnedArena::capacity", [&] { (void)arena->capacity(); }},
      {"PinnedArena::contains", [&] { (void)arena->contains(&objects); }},
      {"PinnedArena::device", [&] { (void)arena->device(); }},
      {"PinnedArena::stats", [&] { (void)arena->stats(); }},
      {"PinnedArena::trim", [&] { (void)arena->trim(); }},
      {"PinnedHeap::make_buffer", [&] { (void)heap->make_buffer<std::byte>(bytes); }},
      {"PinnedHeap::make_buffer, large", [&] { (void)heap->make_buffer<std::byte>(MiB); }},
      {"PinnedHeap::drain", [&] { heap->drain(); }},
      {"PinnedHeap::report", [&] { (void)heap->report(); }},
      {"PinnedHeap::stats", [&] { (void)heap->stats(); }},
      {"Stream::synchronize", [&] { stream->synchronize(); }},
      {"Stream::record", [&] { (void)stream->record(); }},
      {"Stream::wait", [&] { stream->wait(*later); }},
      {"Stream::launch_host_function", [&] { stream->launch_host_function([] {}); }},
      {"Stream::capturing", [&] { (void)stream->capturing(); }},
      {"Stream::native", [&] { (void)stream->native(); }},
      {"Event::ready", [&] { (void)later->ready(); }},
      {"Event::ready, done", [&] { (void)objects.event->ready(); }},
      {"Event::synchronize", [&] { later->synchronize(); }},
      {"async_to_device, new memory", [&] { (void)idle->async_to_device(*stream); }},
      {"async_to_device", [&] { idle->async_to_device(*stream, target->span()); }},
      {"async_from_device", [&] { idle->async_from_device(*stream, target->span()); }},
      {"async_to_host", [&] { (void)target->async_to_host(*stream, *heap); }},
      {"async_to_device of what is borrowed", [&] { (void)objects.written->async_to_device(*stream); }},
      {"async_from_device of what is borrowed", [&] { objects.read->async_from_device(*stream, target->span()); }},
      {"use_on", [&] { idle->use_on(*stream, Access::device_reads, [](const std::byte*, NativeStream) {}); }},
      {"wait", [&] { in_flight->wait(); }},
      {"borrow_mut, in flight", [&] { (void)in_flight->borrow_mut(); }},
      {"try_borrow_mut, in flight", [&] { (void)detail::unwrap(in_flight->try_borrow_mut()); }},
      {"borrow, idle", [&] { (void)idle->borrow(); }},
      {"borrow_mut, idle", [&] { (void)idle->borrow_mut(); }},
      {"try_borrow, idle", [&] { (void)detail::unwrap(idle->try_borrow()); }},
      {"instantiate", [&] { (void)objects.graph->instantiate(); }},
      {"Graph::native", [&] { (void)objects.graph->native(); }},
      {"GraphExec::native", [&] { (void)objects.exec->native(); }},
      {"launch", [&] { objects.exec->launch(*stream); }},
      {"split_at", [&] { (void)detail::unwrap(std::move(*idle).try_split_at(1)); }},
      {"make_buffer_for", [&] { (void)heap->make_buffer_for<std::byte>(bytes, forever); }},
      {"drain_for", [&] { detail::unwrap(heap->drain_for(forever)); }},
      {"wait_for", [&] { detail::unwrap(in_flight->wait_for(forever)); }},
      {"on_ready", [&] { later->on_ready([](Result<void>) {}); }},
      {"PinnedArena::regions", [&] { (void)arena->regions(); }},
      {"begin_capture", [&] { device.simulation().begin_capture(*stream); }},
  };
  const Busy busy(objects);
  for (int i = 0; i != forks; ++i) {
    busy.go_on();
    CHECK(in_child([&] {
            int accepted = 0;
            for (const auto& [what, call] : calls) accepted += is_refused(what, call) ? 0 : 1;
            const Stream own(Device::simulated());
            accepted +=
                is_refused("async_to_device on a stream of its own", [&] { (void)idle->async_to_device(own); }) ? 0 : 1;
            accepted += is_refused("async_to_device on a stream of its own, borrowed",
                                   [&] { (void)objects.written->async_to_device(own); })
                            ? 0
                            : 1;
            accepted +=
                is_refused(
                    "use_on a stream of its own, borrowed",
                    [&] { objects.written->use_on(own, Access::device_writes, [](std::byte*, NativeStream) {}); })
                    ? 0
                    : 1;
            accepted += is_refused("launch on a stream of its own", [&] { objects.exec->launch(own); }) ? 0 : 1;
            accepted += is_refused("wait on a stream of its own", [&] { own.wait(*later); }) ? 0 : 1;
            if (!in_flight->busy()) ++accepted;
            if (!device.lost()) ++accepted;
            if (heap->collect() != 0) ++accepted;
            return accepted;
          }) == 0);
  }
}

TEST_CASE("a new simulated device, arena, heap, stream, copy and event work in a child, and in a child of that" *
          doctest::skip(THOLE_TEST_SANITIZED)) {
  Objects objects;
  const Busy busy(objects);
  for (int i = 0; i != forks; ++i) {
    busy.go_on();
    CHECK(in_child([&] {
            if (i % 2 == 0) objects.drop_all(true);
            if (const int failed = use_a_new_device(); failed != 0) return failed;
            return in_child(use_a_new_device) == 0 ? 0 : 4;
          }) == 0);
  }
}

TEST_CASE("after a fork the parent goes on as before" * doctest::skip(THOLE_TEST_SANITIZED)) {
  Objects objects;
  {
    const Busy busy(objects);
    for (int i = 0; i != forks; ++i) {
      busy.go_on();
      CHECK(in_child([&] {
              objects.drop_all(true);
              return use_a_new_device();
            }) == 0);
    }
  }
  objects.device.simulation().release(*objects.stream);
  objects.later->synchronize();
  objects.heap->drain();
  CHECK(objects.in_flight->try_borrow_mut().has_value());
  CHECK(objects.heap->stats().in_flight == 0);
}

TEST_CASE("a child that is forked while another thread holds a stream's lock drops all that is of the stream" *
          doctest::skip(THOLE_TEST_SANITIZED)) {
  const Rig rig;
  auto stream = std::make_optional<Stream>(rig.device);
  std::optional<DeviceBuffer<std::byte>> target(std::in_place, *stream, bytes);
  rig.heap.make_buffer<std::byte>(bytes).async_to_device(*stream, target->span());  // waits in the stream's queue
  std::optional<Event> event(stream->record());
  int result = -1;
  rig.sim().before_call(SimulatedCall::record_event, [&] {  // the one under which events are recorded and listed
    std::thread([&] {
      result = in_child([&] {
        event.reset();
        target.reset();
        stream.reset();
        return use_a_new_device();
      });
    }).join();
  });
  const Event another = stream->record();
  CHECK(result == 0);
}

TEST_CASE("a child that is forked in the middle of any call drops what it has inherited, and uses a new device" *
          doctest::skip(THOLE_TEST_SANITIZED)) {
  int met = 0;
  for (int kind = 0; kind <= static_cast<int>(SimulatedCall::destroy_graph_exec); ++kind) {
    CAPTURE(kind);
    Objects objects;
    const Device& device = objects.device;
    std::atomic<int> forked{0}, failed{0};
    device.simulation().before_call(static_cast<SimulatedCall>(kind), [&] {
      std::thread([&] {
        ++forked;
        failed += in_child([&] {
                    objects.drop_all(true);
                    return use_a_new_device();
                  }) != 0;
      }).join();
    });
    use_device(device);
    for (const auto pin : {PinMethod::register_pages, PinMethod::host_alloc}) {
      const PinnedHeap heap(PinnedArena(device, {.bytes = MiB, .pin_method = pin}));
      const Stream stream(device), other(device);
      auto target = heap.make_buffer<std::byte>(bytes).async_to_device(stream);
      heap.make_buffer<std::byte>(bytes).async_to_device(other, target.span());
      (void)detail::unwrap(detail::stream_from_native(device, other.native())).record();
      stream.synchronize();
      other.synchronize();
      device.simulation().begin_capture(stream);
      heap.make_buffer<std::byte>(bytes).async_to_device(stream, target.span());
      auto graph = device.simulation().end_capture(stream);
      graph.instantiate().launch(stream);
    }
    device.simulation().before_call(static_cast<SimulatedCall>(kind), nullptr);
    CHECK(failed == 0);
    met += forked;
  }
  CHECK(met >= 20);
}

TEST_CASE("a child leaves a function that has forked, while another thread of the parent records an event there" *
          doctest::skip(THOLE_TEST_SANITIZED)) {
  const Rig rig;
  const Stream stream(rig.device);
  auto buffer = rig.heap.make_buffer<std::byte>(bytes);
  DeviceBuffer<std::byte> memory(stream, bytes);
  int result = -1;
  std::promise<void> records, forked;
  std::jthread other;
  pid_t child = 0;
  try {
    use_on(stream, writes(buffer), writes(memory), [&](std::byte*, std::byte*, NativeStream) {
      rig.sim().before_call(SimulatedCall::record_event, [&] {
        records.set_value();
        forked.get_future().wait();
      });
      other = std::jthread([&] { (void)stream.record(); });
      records.get_future().wait();
      child = fork();
      if (child == 0) {
        alarm(60);
        throw 0;  // the call ends in the child, too
      }
      int status = 0;
      if (waitpid(child, &status, 0) == child && WIFEXITED(status)) result = WEXITSTATUS(status);
      forked.set_value();
    });
  } catch (int) {
    std::_Exit(0);
  }
  CHECK(result == 0);
}

TEST_CASE("a child that is forked in a host function is in none, and uses a new device" *
          doctest::skip(THOLE_TEST_SANITIZED)) {
  const Rig rig(Device::simulated());
  const Stream stream(rig.device);
  int result = -1;
  stream.launch_host_function([&] { result = in_child(use_a_new_device); });
  stream.synchronize();
  CHECK(result == 0);
}

TEST_CASE("a child does not wait for the blocks that another thread of its parent had in its hands" *
          doctest::skip(THOLE_TEST_SANITIZED)) {
  const Rig rig;
  const Stream stream(rig.device);
  DeviceBuffer<std::byte> target(stream, bytes);
  for (int i = 0; i != 2; ++i) {
    rig.heap.make_buffer<std::byte>(bytes).async_to_device(stream, target.span());
    (void)stream.native();  // an event for each
  }
  rig.sim().run_all();
  int result = -1;
  const auto ask = SimulatedCall::query_event;
  rig.sim().before_call(ask, [&] {
    rig.sim().before_call(ask, [&] {  // the first block is found, and not put anywhere yet
      CHECK(detail::MovingBlocks::any());
      result = in_child([] { return detail::MovingBlocks::any() ? 1 : 0; });
    });
  });
  (void)rig.heap.collect();
  CHECK(result == 0);
  CHECK(rig.all_free());
  CHECK(!detail::MovingBlocks::any());
}
