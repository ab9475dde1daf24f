// Memory that is given back after all that the device has been given: PinnedHeap::deallocate_after_all. Where a case
// must know what the library's own thread is just doing, or has the device refuse or be lost, it needs the simulated
// device.

#include <unistd.h>

#include <chrono>
#include <optional>
#include <utility>
#include <vector>

#include "../support/allocations.hpp"
#include "../support/child.hpp"
#include "../support/rig.hpp"
#include "../support/sanitized.hpp"
#include "memory/pinned_pool.hpp"

using namespace support;

namespace {

constexpr std::size_t bytes = 64 * KiB;

/// A stream that thole has never heard of, with work in it that nobody recorded, and that stands still until it goes
/// on.
class Unknown {
 public:
  explicit Unknown(const Rig& rig)
      : rig_(rig), backend_(rig.backend()), made_on_(rig.device), target_(made_on_, bytes) {
    REQUIRE(backend_.create_stream(&stream_).ok());
    rig.settle(made_on_);  // the target is there
    if (!rig.simulated()) REQUIRE(backend_.launch_host_function(stream_, &Unknown::stand, this).ok());
  }
  ~Unknown() {
    open();
    if (!rig_.simulated()) (void)backend_.synchronize_stream(stream_);
    (void)backend_.destroy_stream(stream_);  // lost devices say so
  }
  Unknown(const Unknown&) = delete;
  Unknown& operator=(const Unknown&) = delete;
  void read(void* data) {
    REQUIRE(backend_.copy(target_.span().native(), data, bytes, detail::CopyKind::host_to_device, stream_).ok());
  }
  void go_on() {
    if (rig_.simulated()) {
      rig_.sim().run_all();
    } else {
      open();
    }
  }

 private:
  static void stand(void* unknown) { static_cast<Unknown*>(unknown)->opened_.wait(false, std::memory_order_acquire); }
  void open() {
    opened_.store(true, std::memory_order_release);
    opened_.notify_all();
  }

  const Rig& rig_;
  detail::DeviceBackend& backend_;
  const Stream made_on_;
  DeviceBuffer<std::byte> target_;
  detail::StreamHandle stream_ = nullptr;
  std::atomic<bool> opened_{false};
};

/// The library's own thread has looked whether something is captured, more than once, as far as that can be seen.
void until_it_has_looked(const Rig& rig) {
  constexpr int very_often = 10'000;
  const auto asked = rig.simulated() ? rig.calls(SimulatedCall::capture_info) : 0;
  if (rig.simulated()) return until([&] { return rig.calls(SimulatedCall::capture_info) > asked + 4; });
  for (int i = 0; i != very_often; ++i) std::this_thread::yield();
}

std::size_t in_use(const Rig& rig) { return rig.heap.stats().in_use; }

}  // namespace

TEST_CASE("memory that is given back after all waits for work that thole has never heard of, and nobody waits for it") {
  const Rig rig(under_test());
  Unknown unknown(rig);
  void* const data = rig.heap.allocate(bytes);
  std::memset(data, 7, bytes);
  unknown.read(data);
  CHECK(rig.heap.deallocate_after_all(data));
  CHECK(!rig.heap.find(data).has_value());
  if (rig.simulated()) until_blocked(rig.sim());  // the library's own thread
  (void)rig.heap.collect();
  CHECK(in_use(rig) == bytes);
  CHECK(!rig.all_free());
  unknown.go_on();
  until([&] { return in_use(rig) == 0; });
  CHECK(rig.all_free());
}

TEST_CASE("it waits for what the device has been given before, and for nothing later") {
  const Rig rig;  // whose library's own thread is seen to wait
  Unknown unknown(rig);
  const Stream later(rig.device);
  void* const first = rig.heap.allocate(bytes);
  void* const second = rig.heap.allocate(2 * bytes);
  unknown.read(first);
  CHECK(rig.heap.deallocate_after_all(first));
  until_blocked(rig.sim());
  rig.sim().hold(later);
  CHECK(rig.heap.record_use(second, later, Access::device_reads));
  const Event held = later.record();
  CHECK(rig.heap.deallocate_after_all(second));
  rig.sim().run_all();  // but what is held
  until([&] { return in_use(rig) == 2 * bytes; });
  until_blocked(rig.sim());  // for the second
  CHECK(in_use(rig) == 2 * bytes);
  rig.sim().release(later);
  until([&] { return in_use(rig) == 0; });
  rig.heap.drain();
  CHECK(rig.all_free());
}

TEST_CASE("a graph capture in a stream of thole's goes on unharmed, and the memory waits until it has ended") {
  using detail::CaptureMode;
  for (const auto mode : {CaptureMode::global, CaptureMode::thread_local_, CaptureMode::relaxed}) {
    const Rig rig(under_test());
    const Stream stream(rig.device);
    void* const data = rig.heap.allocate(bytes);
    REQUIRE(rig.backend().begin_capture(stream.native(), mode).ok());
    CHECK(rig.heap.deallocate_after_all(data));
    until_it_has_looked(rig);
    if (rig.simulated()) CHECK(rig.calls(SimulatedCall::record_device) == 0);
    CHECK(in_use(rig) == bytes);
    detail::GraphHandle graph = nullptr;
    REQUIRE(rig.backend().end_capture(stream.native(), &graph).ok());
    CHECK(rig.backend().destroy_graph(graph).ok());
    until([&] { return in_use(rig) == 0; });
    if (rig.simulated()) CHECK(rig.calls(SimulatedCall::record_device) == 1);
  }
}

TEST_CASE("a capture of thole's goes on unharmed that begins when the library's own thread has looked for captures") {
  const Rig rig;
  const Stream stream(rig.device);
  std::atomic<bool> looked{false}, begun{false};
  rig.sim().before_call(SimulatedCall::record_device, [&] {
    looked = true;
    for (int i = 0; i != 10000 && !begun; ++i) std::this_thread::yield();  // who is held up is not waited for
  });
  CHECK(rig.heap.deallocate_after_all(rig.heap.allocate(bytes)));
  until([&] { return looked.load(); });
  const auto graph = try_capture(stream, [&] {
    begun = true;
    until([&] { return rig.calls(SimulatedCall::record_device) != 0; });
  });
  CHECK(graph.has_value());
  until([&] { return in_use(rig) == 0; });
}

TEST_CASE("a capture goes on unharmed though streams come while the library's own thread looks through all of them") {
  const Rig rig;
  std::vector<std::optional<Stream>> streams(60), more(64);
  for (auto& stream : streams) stream.emplace(rig.device);
  const auto captures = streams[59]->native();
  (void)streams[30]->native();
  for (std::size_t i = 0; i != 30; ++i) streams[i].reset();
  REQUIRE(rig.backend().begin_capture(captures, detail::CaptureMode::thread_local_).ok());
  std::atomic<bool> come{false};
  // The default stream is asked first, then the 30th, when those behind it move up.
  rig.sim().before_call(SimulatedCall::capture_info, [&] {
    rig.sim().before_call(SimulatedCall::capture_info, [&] {
      for (auto& stream : more) stream.emplace(rig.device);
      come = true;
    });
  });
  CHECK(rig.heap.deallocate_after_all(rig.heap.allocate(bytes)));
  until([&] { return come.load(); });
  until_it_has_looked(rig);
  CHECK(rig.calls(SimulatedCall::record_device) == 0);
  detail::GraphHandle graph = nullptr;
  REQUIRE(rig.backend().end_capture(captures, &graph).ok());
  CHECK(rig.backend().destroy_graph(graph).ok());
  until([&] { return rig.sim().run_all(), in_use(rig) == 0; });
}

TEST_CASE("a capture in the default stream of another thread goes on unharmed") {
  // On a thread of its own: where the main thread has used its default stream on a GPU, a child that it forks crashes.
  std::thread([] {
    const Rig rig(under_test());
    void* const per_thread = reinterpret_cast<void*>(2);
    detail::GraphHandle graph = nullptr;
    void* const data = rig.heap.allocate(bytes);
    REQUIRE(rig.backend().begin_capture(per_thread, detail::CaptureMode::global).ok());
    CHECK(rig.heap.deallocate_after_all(data));
    until_it_has_looked(rig);
    if (rig.simulated()) CHECK(rig.calls(SimulatedCall::record_device) == 0);
    CHECK(in_use(rig) == bytes);
    REQUIRE(rig.backend().end_capture(per_thread, &graph).ok());
    CHECK(rig.backend().destroy_graph(graph).ok());
    until([&] { return in_use(rig) == 0; });
  }).join();
}

TEST_CASE("a capture on another device goes on unharmed, and nobody waits for it") {
  for (const bool captured_is_simulated : {true, false}) {
    CAPTURE(captured_is_simulated);
    const Rig rig(captured_is_simulated ? under_test() : stepped());
    const Rig other(captured_is_simulated ? stepped() : under_test());
    const Stream stream(other.device);
    void* const data = rig.heap.allocate(bytes);
    REQUIRE(other.backend().begin_capture(stream.native(), detail::CaptureMode::global).ok());
    CHECK(rig.heap.deallocate_after_all(data));
    until([&] { return in_use(rig) == 0; });
    detail::GraphHandle graph = nullptr;
    REQUIRE(other.backend().end_capture(stream.native(), &graph).ok());
    CHECK(other.backend().destroy_graph(graph).ok());
  }
}

TEST_CASE("what cannot be given back after all is told, and stays the caller's") {
  const Rig rig(under_test());
  auto buffer = rig.heap.make_buffer<std::byte>(bytes);
  const PinnedHeap other(rig.arena);
  std::byte* const data = static_cast<std::byte*>(rig.heap.allocate(bytes));
  CHECK(rig.heap.deallocate_after_all(nullptr));
  CHECK(!rig.heap.deallocate_after_all(buffer.unsynchronized_data()));
  CHECK(!rig.heap.deallocate_after_all(data + 64));
  CHECK(!other.deallocate_after_all(data));
  CHECK(rig.heap.deallocate_after_all(data));
  CHECK(!rig.heap.deallocate_after_all(data));
  CHECK(!rig.heap.deallocate(data));
  until([&] { return in_use(rig) == bytes; });  // the buffer's
}

TEST_CASE("what cannot be given back after all of a device that is lost stays the caller's") {
  const Rig rig;
  void* const late = rig.heap.allocate(bytes);
  rig.sim().lose_device();
  errc_text_of(Stream::try_make(rig.device), Errc::device_lost);  // now it is known
  errc_text_of(rig.heap.try_deallocate_after_all(late), Errc::device_lost);
  CHECK(rig.heap.find(late).has_value());
  CHECK(rig.heap.deallocate(late));
}

#if !THOLE_TEST_SANITIZED
TEST_CASE("where there is no memory to wait with, it stays the caller's") {
  const Rig rig(under_test());
  CHECK(rig.heap.deallocate_after_all(rig.heap.allocate(bytes)));
  until([&] { return in_use(rig) == 0; });
  void* const data = rig.heap.allocate(bytes);
  std::optional<Result<bool>> given;
  {
    const support::NoMemory no_memory;
    given.emplace(rig.heap.try_deallocate_after_all(data));
  }
  errc_text_of(*given, Errc::out_of_memory);
  REQUIRE(rig.heap.find(data).has_value());
  CHECK(rig.heap.deallocate(data));
}
#endif

TEST_CASE("a wait that the device refuses is made again, and Device::take_error says what was refused") {
  Rig rig;
  Unknown unknown(rig);
  void* const data = rig.heap.allocate(bytes);
  unknown.read(data);
  rig.sim().fail_call(SimulatedCall::record_device, 1);
  CHECK(rig.heap.deallocate_after_all(data));
  until_blocked(rig.sim());
  CHECK(in_use(rig) == bytes);
  const auto error = rig.device.take_error();
  REQUIRE(error.has_value());
  CHECK(has(error->what(), "PinnedHeap::deallocate_after_all"));
  rig.sim().run_all();
  until([&] { return in_use(rig) == 0; });
}

TEST_CASE("a device that is lost lets go of what waits for all of it") {
  const Rig rig;
  Unknown unknown(rig);
  void* const data = rig.heap.allocate(bytes);
  unknown.read(data);
  CHECK(rig.heap.deallocate_after_all(data));
  until_blocked(rig.sim());
  rig.sim().lose_device();
  until([&] { return in_use(rig) == 0; });
}

TEST_CASE("memory that waits for all keeps its heap and its arena, and ends them") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  const auto arenas = [&] { return detail::bytes_in_use(rig.backend()); };
  const std::size_t before = arenas();
  void* data = nullptr;
  std::optional<Gate> gate;
  {
    const PinnedHeap heap(PinnedArena(rig.device, {.bytes = MiB}));
    data = heap.allocate(bytes);
    gate.emplace(rig, stream);
    const Event held = stream.record();
    CHECK(heap.deallocate_after_all(data));
  }
  if (rig.simulated()) until_blocked(rig.sim());
  CHECK(arenas() >= before + MiB);
  std::memset(data, 1, bytes);  // still there
  gate->open();
  until([&] { return arenas() <= before; });
}

TEST_CASE("a forked child knows none of its parent's memory") {
  const Rig rig(under_test());
  void* const data = rig.heap.allocate(bytes);
  const auto known = [&]() -> int { _exit(rig.heap.deallocate_after_all(data) ? 1 : 0); };
  CHECK(in_child(known) == 0);
  CHECK(rig.heap.deallocate_after_all(data));
  until([&] { return in_use(rig) == 0; });
}

TEST_CASE("who waits for memory gets what comes back after all") {
  const Rig rig(under_test());
  Unknown unknown(rig);
  void* const data = rig.heap.allocate(MiB);
  unknown.read(data);
  CHECK(rig.heap.deallocate_after_all(data));
  std::atomic<bool> made{false};
  std::thread waiting(
      [&] { made = rig.heap.try_make_buffer_for<std::byte>(MiB, std::chrono::minutes(1)).has_value(); });
  if (rig.simulated()) until_blocked(rig.sim());
  CHECK(!made);
  unknown.go_on();
  waiting.join();
  CHECK(made);
}

TEST_CASE("many threads give memory back after all, and nothing is lost") {
  const Rig rig(running_under_test(), {.bytes = 16 * MiB});
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int i = 0; i != 4; ++i)
    threads.emplace_back([&] {
      const Stream stream(rig.device);
      for (int round = 0; round != 500; ++round) {
        void* const data = rig.heap.allocate(std::size_t{64} << (round % 8));
        if (!rig.heap.record_use(data, stream, Access::device_reads)) ++wrong;
        if (!rig.heap.deallocate_after_all(data)) ++wrong;
      }
    });
  for (auto& thread : threads) thread.join();
  CHECK(wrong.load() == 0);
  until([&] { return in_use(rig) == 0; });
  rig.heap.drain();
  CHECK(rig.heap.stats().in_flight == 0);
}
