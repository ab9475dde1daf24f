// Raw addresses of a heap: what adapters to other interfaces are made of. One case has two devices, of which one is
// made current.

#include <array>
#include <limits>
#include <optional>
#include <vector>

#include "../support/rig.hpp"

using namespace support;

namespace {

constexpr std::size_t bytes = 4 * KiB;

std::byte* allocated(const Rig& rig, std::size_t size = bytes) {
  return static_cast<std::byte*>(rig.heap.allocate(size));
}

/// A capture in global mode, begun and ended past thole.
template <class F>
Graph captured_by_others(const Rig& rig, const StreamRef& stream, F&& f) {
  REQUIRE(rig.backend().begin_capture(stream.native(), detail::CaptureMode::global).ok());
  f();
  void* graph = nullptr;
  REQUIRE(rig.backend().end_capture(stream.native(), &graph).ok());
  return Graph::from_native(rig.device, static_cast<NativeGraph>(graph));
}

/// A copy to the device behind thole's back.
struct Copying {
  explicit Copying(const Rig& on) : rig(on), stream(rig.device), target(stream, bytes) { rig.settle(stream); }
  void copy_from(const std::byte* data) {
    REQUIRE(rig.backend()
                .copy(target.span().native(), const_cast<std::byte*>(data), bytes, detail::CopyKind::host_to_device,
                      stream.native())
                .ok());
  }
  const Rig& rig;
  Stream stream;
  DeviceBuffer<std::byte> target;
};

}  // namespace

TEST_CASE("raw memory is pinned, aligned as asked, and comes back") {
  const Rig rig(under_test());
  for (const std::size_t alignment : {std::size_t{1}, std::size_t{64}, std::size_t{256}, std::size_t{4096}}) {
    std::vector<void*> all;
    for (const std::size_t size : {std::size_t{1}, std::size_t{65}, std::size_t{4096}, 70 * KiB}) {
      all.push_back(rig.heap.allocate(size, alignment));
      CHECK(reinterpret_cast<std::uintptr_t>(all.back()) % alignment == 0);
      CHECK(rig.arena.contains(all.back()));
      std::memset(all.back(), 1, size);
      const auto found = rig.heap.find(static_cast<std::byte*>(all.back()) + size - 1);
      REQUIRE(found.has_value());
      CHECK(found->data == all.back());
      CHECK(found->bytes == size);
      CHECK(!found->in_flight);
    }
    for (void* const data : all) CHECK(rig.heap.deallocate(data));
  }
  CHECK(rig.heap.stats().in_use == 0);
  CHECK(rig.all_free());
}

TEST_CASE("0 bytes are no memory, and too many or a wrong alignment are an error") {
  const Rig rig(under_test());
  CHECK(rig.heap.allocate(0) == nullptr);
  CHECK(rig.heap.deallocate(nullptr));
  errc_text([&] { (void)rig.heap.allocate(8 * MiB); }, Errc::too_large);
  errc_text([&] { (void)rig.heap.allocate(std::numeric_limits<std::size_t>::max()); }, Errc::too_large);
  for (const std::size_t alignment : {std::size_t{0}, std::size_t{96}, std::size_t{8192}})
    errc_text([&] { (void)rig.heap.allocate(64, alignment); }, Errc::invalid_argument);
}

TEST_CASE("memory that is not the heap's is told by false, by nothing, or by an error, and stays as it is") {
  const Rig rig(under_test());
  const PinnedHeap other(rig.arena);
  const Stream stream(rig.device);
  auto buffer = rig.heap.make_buffer<std::byte>(bytes);
  std::byte* const raw = allocated(rig);
  std::array<std::byte, 128> local{};
  for (void* const foreign : {static_cast<void*>(local.data()), static_cast<void*>(buffer.unsynchronized_data())}) {
    CHECK(!rig.heap.deallocate(foreign));
    CHECK(!rig.heap.deallocate(foreign, stream));
    CHECK(!rig.heap.record_use(foreign, stream, Access::device_reads));
    CHECK(!rig.heap.find(foreign).has_value());
    errc_text([&] { rig.heap.use_on(foreign, stream, Access::device_writes, [](NativeStream) { FAIL_CHECK(""); }); },
              Errc::invalid_argument);
    errc_text_of(rig.heap.try_wait_for(foreign, Access::device_reads, forever), Errc::invalid_argument);
  }
  CHECK(!other.deallocate(raw));
  CHECK(!other.find(raw).has_value());
  CHECK(!rig.heap.deallocate(raw + 64));  // not where it starts
  CHECK(rig.heap.deallocate(raw));
  CHECK(!rig.heap.deallocate(raw));
  CHECK(!rig.heap.find(raw).has_value());
}

TEST_CASE("a recorded use, of any address in the memory, keeps it until the device is done") {
  const Rig rig(under_test());
  Copying work(rig);
  std::byte* const data = allocated(rig);
  std::memset(data, 5, bytes);
  Gate gate(rig, work.stream);
  work.copy_from(data);
  CHECK(rig.heap.record_use(data + bytes - 1, work.stream, Access::device_reads));
  CHECK(rig.heap.find(data)->in_flight);
  CHECK(rig.heap.try_wait_for(data, Access::device_reads, std::chrono::nanoseconds(0)).has_value());
  errc_text_of(rig.heap.try_wait_for(data, Access::device_writes, std::chrono::nanoseconds(0)), Errc::timed_out);
  CHECK(rig.heap.deallocate(data));
  CHECK(!rig.all_free());
  CHECK(rig.heap.stats().in_flight >= bytes);
  gate.open();
  rig.settle(work.stream);
  CHECK(rig.all_free());
  CHECK(device_holds(rig, work.stream, work.target, 5));
}

TEST_CASE("memory deallocated on a stream waits for what the stream had been given") {
  const Rig rig(under_test());
  Copying work(rig);
  std::byte* const data = allocated(rig);
  std::memset(data, 6, bytes);
  Gate gate(rig, work.stream);
  work.copy_from(data);
  CHECK(rig.heap.deallocate(data, work.stream));
  (void)rig.heap.collect();
  CHECK(!rig.all_free());
  gate.open();
  rig.settle(work.stream);
  CHECK(rig.all_free());
  CHECK(device_holds(rig, work.stream, work.target, 6));
}

TEST_CASE("where a stream is gone the memory stays the caller's") {
  const Rig rig(under_test());
  std::optional<Stream> stream(std::in_place, rig.device);
  const StreamRef view = *stream;
  stream.reset();
  std::byte* const data = allocated(rig);
  errc_text([&] { (void)rig.heap.deallocate(data, view); }, Errc::invalid_argument);
  errc_text([&] { (void)rig.heap.record_use(data, view, Access::device_reads); }, Errc::invalid_argument);
  CHECK(rig.heap.find(data).has_value());
  CHECK(rig.heap.deallocate(data));
}

TEST_CASE("use_on orders the work on raw memory behind its earlier uses, and records it") {
  const Rig rig(under_test());
  Copying work(rig);
  const Stream second(rig.device);
  std::byte* const data = allocated(rig);
  std::memset(data, 7, bytes);
  Gate gate(rig, work.stream);
  work.copy_from(data);
  CHECK(rig.heap.record_use(data, work.stream, Access::device_reads));
  const auto waits = rig.simulated() ? rig.calls(SimulatedCall::wait_event) : 0;
  bool ran = false;
  rig.heap.use_on(data + 1, second, Access::device_writes, [&](NativeStream native) {
    CHECK(native == second.native());
    ran = true;
  });
  CHECK(ran);
  if (rig.simulated()) CHECK(rig.calls(SimulatedCall::wait_event) == waits + 1);
  CHECK(rig.heap.deallocate(data));
  CHECK(!rig.all_free());
  gate.open();
  rig.settle(work.stream);
  rig.settle(second);
  CHECK(rig.all_free());
}

TEST_CASE("a graph that captured a recorded use keeps the memory") {
  const Rig rig(under_test());
  Copying work(rig);
  std::byte* const data = allocated(rig);
  {
    const Graph graph = captured_by_others(rig, work.stream, [&] {
      work.copy_from(data);
      CHECK(rig.heap.record_use(data, work.stream, Access::device_reads));
    });
    CHECK(rig.heap.deallocate(data));
    (void)rig.heap.collect();
    CHECK(!rig.all_free());
  }
  until([&] {
    (void)rig.heap.collect();
    return rig.all_free();
  });
}

TEST_CASE(
    "what a stream was given before a capture began still holds memory that is deallocated on it in the capture") {
  const Rig rig(under_test());
  Copying work(rig);
  std::byte* const data = allocated(rig);
  std::memset(data, 8, bytes);
  Gate gate(rig, work.stream);
  work.copy_from(data);
  (void)captured_by_others(rig, work.stream, [&] { CHECK(rig.heap.deallocate(data, work.stream)); });
  (void)rig.heap.collect();
  CHECK(!rig.all_free());
  gate.open();
  rig.finish(work.stream);
  (void)rig.heap.collect();
  rig.finish(work.stream);
  CHECK(rig.all_free());
  CHECK(device_holds(rig, work.stream, work.target, 8));
}

TEST_CASE("a capture of another thread that was invalidated keeps no memory that is deallocated on its stream") {
  const Rig rig(under_test());
  Copying work(rig);
  bool by_adapter = false;
  SUBCASE("by its address") {}
  SUBCASE("by an adapter") { by_adapter = true; }
  std::byte* const data = allocated(rig);
  std::memset(data, 9, bytes);
  (void)Device(rig.device).take_error();  // of an earlier test's
  Gate gate(rig, work.stream);
  work.copy_from(data);
  void* const native = work.stream.native();
  std::thread([&] { CHECK(rig.backend().begin_capture(native, detail::CaptureMode::relaxed).ok()); }).join();
  CHECK(!rig.backend().synchronize_stream(work.stream.native()).ok());  // which invalidates it
  if (by_adapter)
    detail::deallocate_on_native(rig.heap, data, work.stream.native());
  else
    CHECK(rig.heap.deallocate(data, work.stream));
  CHECK(!rig.heap.find(data).has_value());
  CHECK(!Device(rig.device).take_error().has_value());
  void* graph = nullptr;
  CHECK(rig.backend().end_capture(native, &graph).code == detail::StatusCode::capture);
  (void)rig.heap.collect();
  CHECK(!rig.all_free());
  gate.open();
  rig.settle(work.stream);
  CHECK(rig.all_free());
  CHECK(device_holds(rig, work.stream, work.target, 9));
}

TEST_CASE("memory deallocated on a stream of others in a capture comes back with the stream's next use") {
  const Rig rig(under_test());
  void* native = nullptr;
  REQUIRE(rig.backend().create_stream(&native).ok());
  const auto view = detail::unwrap(detail::stream_from_native(rig.device, native));
  std::byte* const data = allocated(rig);
  auto buffer = rig.heap.make_buffer<std::byte>(64);
  (void)captured_by_others(rig, view, [&] { CHECK(rig.heap.deallocate(data, view)); });
  rig.finish(view);
  until([&] {  // the library's own thread may have it in hand
    (void)rig.heap.collect();
    return rig.heap.stats().in_flight >= bytes;
  });
  buffer.use_on(view, Access::device_reads, [](const std::byte*, NativeStream) {});
  rig.finish(view);
  until([&] {
    (void)rig.heap.collect();
    return rig.heap.stats().in_flight == 0;
  });
  REQUIRE(rig.backend().destroy_stream(native).ok());
}

TEST_CASE("memory is not deallocated through a view that was made while its stream captures, and stays the caller's") {
  const Rig rig(under_test());
  void* native = nullptr;
  (void)Device(rig.device).take_error();  // of an earlier test's
  REQUIRE(rig.backend().create_stream(&native).ok());
  std::byte* const data = allocated(rig);
  REQUIRE(rig.backend().begin_capture(native, detail::CaptureMode::global).ok());
  const auto in_capture = detail::unwrap(detail::stream_from_native(rig.device, native));
  errc_text([&] { (void)rig.heap.deallocate(data, in_capture); }, Errc::capturing);
  detail::deallocate_on_native(rig.heap, data, static_cast<NativeStream>(native));
  const auto kept = Device(rig.device).take_error();
  CHECK((kept && kept->errc() == Errc::capturing));
  void* graph = nullptr;
  REQUIRE(rig.backend().end_capture(native, &graph).ok());
  REQUIRE(rig.backend().destroy_graph(graph).ok());
  CHECK(rig.heap.stats().in_flight == 0);
  const auto view = detail::unwrap(detail::stream_from_native(rig.device, native));
  CHECK(rig.heap.deallocate(data, view));
  rig.finish(view);
  CHECK(rig.all_free());
  REQUIRE(rig.backend().destroy_stream(native).ok());
}

TEST_CASE("a capture of thole's that ends gives back what was deallocated in it") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  (void)stream.native();
  std::byte* const data = allocated(rig);
  {
    const Graph graph = capture(stream, [&] { CHECK(rig.heap.deallocate(data, stream)); });
  }
  rig.finish(stream);
  CHECK(rig.all_free());
}

TEST_CASE("an adapter's stream may be another device's, and a default stream is the current device's") {
  const Rig near, far;
  const Stream stream(far.device);
  DeviceBuffer<std::byte> target(stream, bytes);
  far.settle(stream);
  NativeStream native = nullptr;
  SUBCASE("a stream of the other device") { native = stream.native(); }
  SUBCASE("the default stream, the other device being current") { far.sim().make_current(); }
  SUBCASE("the thread's default stream, the other device being current") {
    far.sim().make_current();
    native = reinterpret_cast<NativeStream>(2);
  }
  std::byte* const data = allocated(near);
  std::memset(data, 4, bytes);
  REQUIRE(far.backend().copy(target.span().native(), data, bytes, detail::CopyKind::host_to_device, native).ok());
  detail::deallocate_on_native(near.heap, data, native);
  near.sim().run_all();
  (void)near.heap.collect();
  CHECK(!near.all_free());
  far.sim().run_all();
  (void)near.heap.collect();
  CHECK(near.all_free());
  CHECK(!Device(near.device).take_error().has_value());
  CHECK(device_holds(far, stream, target, 4));
  near.sim().make_current();
}

TEST_CASE("memory that is allocated here is deallocated there, by many threads") {
  const Rig rig(running_under_test(), {.bytes = 16 * MiB});
  constexpr int threads_of_each = 2, rounds = 2000;
  std::array<std::atomic<void*>, threads_of_each> handed{};
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i != threads_of_each; ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round != rounds; ++round) {
        void* const data = rig.heap.allocate(std::size_t{64} << (round % 8));
        until([&] { return handed[i].load() == nullptr; });
        handed[i].store(data);
      }
    });
    threads.emplace_back([&, i] {
      const Stream stream(rig.device);
      for (int round = 0; round != rounds; ++round) {
        void* data = nullptr;
        until([&] { return (data = handed[i].exchange(nullptr)) != nullptr; });
        const auto found = rig.heap.find(data);
        if (!found || found->bytes != std::size_t{64} << (round % 8)) ++wrong;
        if (round % 3 == 0 ? !rig.heap.deallocate(data, stream) : !rig.heap.deallocate(data)) ++wrong;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(wrong.load() == 0);
  rig.heap.drain();
  CHECK(rig.heap.stats().in_use == 0);
  CHECK(rig.heap.stats().in_flight == 0);
}

TEST_CASE("many threads may use one address in turn and at once: each is refused or recorded, and nothing is lost") {
  const Rig rig(running_under_test());
  std::byte* const data = allocated(rig);
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int i = 0; i != 4; ++i)
    threads.emplace_back([&] {
      const Stream stream(rig.device);
      for (int round = 0; round != 500; ++round) try {
          rig.heap.use_on(data, stream, Access::device_writes, [](NativeStream) {});
        } catch (const Error& error) {
          if (error.errc() != Errc::borrowed) ++wrong;
        }
    });
  for (auto& thread : threads) thread.join();
  CHECK(wrong.load() == 0);
  CHECK(rig.heap.try_wait_for(data, Access::device_writes, forever).has_value());
  CHECK(rig.heap.deallocate(data));
  rig.heap.drain();
  CHECK(rig.heap.stats().in_use == 0);
}

TEST_CASE("many threads may wait for one address at once: who only waits stands in nobody's way") {
  const Rig rig(running_under_test());
  std::byte* const data = allocated(rig);
  std::atomic<int> refused{0};
  std::vector<std::thread> threads;
  for (int i = 0; i != 4; ++i)
    threads.emplace_back([&] {
      for (int round = 0; round != 5000; ++round)
        if (!rig.heap.try_wait_for(data, Access::device_writes, std::chrono::nanoseconds(0))) ++refused;
    });
  for (auto& thread : threads) thread.join();
  CHECK(refused.load() == 0);
  CHECK(rig.heap.deallocate(data));
}
