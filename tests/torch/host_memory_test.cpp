// What the PyTorch adapter is made of, but for PyTorch: memory by addresses, its figures, captures.

#include <algorithm>
#include <array>
#include <atomic>
#include <thread>
#include <vector>

#include "../support/child.hpp"
#include "../support/rig.hpp"
#include "../support/sanitized.hpp"
#include "host_memory.hpp"

using namespace support;
using thole_torch::Count;
using thole_torch::Counted;
using thole_torch::Given;
using thole_torch::HostMemory;

namespace {

constexpr std::size_t bytes = 4 * KiB;

Given* given(HostMemory& memory, std::size_t size = bytes) { return detail::unwrap(memory.allocate(size)); }

bool is(const Count& count, std::int64_t current, std::int64_t peak, std::int64_t allocated, std::int64_t freed) {
  if (count.current == current && count.peak == peak && count.allocated == allocated && count.freed == freed)
    return true;
  MESSAGE("current ", count.current, " peak ", count.peak, " allocated ", count.allocated, " freed ", count.freed);
  return false;
}

/// Memory of an adapter, and copies in a stream that others made, of which it is told afterwards, as by PyTorch.
struct Copies {
  explicit Copies(std::size_t arena_bytes = 4 * MiB, std::size_t max_bytes = 0)
      : memory(device, arena_bytes, max_bytes), target(own, bytes) {
    run();
  }
  ~Copies() {
    run();
    CHECK(backend_of(device).destroy_stream(native).ok());
  }
  Copies(const Copies&) = delete;
  Copies& operator=(const Copies&) = delete;
  void copy(const Given& from, std::size_t offset = 0) {
    auto* const at = static_cast<std::byte*>(from.data) + offset;
    REQUIRE(backend_of(device).copy(target.span().native(), at, 1, detail::CopyKind::host_to_device, native).ok());
    CHECK(memory.record_use(at, stream));
  }
  void run() const { (void)device.simulation().run_all(); }
  /// Whether one of many others gets that memory.
  bool is_given_out(const void* where) {
    std::vector<Given*> others;
    for (int i = 0; i != 100; ++i) others.push_back(given(memory));
    const bool found = std::ranges::any_of(others, [where](const Given* other) { return other->data == where; });
    for (Given* const other : others) memory.release(other);
    return found;
  }
  /// Whether no stream and no graph has any of it.
  bool all_free() const {
    (void)memory.heap().collect();
    return memory.heap().try_make_buffer<std::byte>(memory.arena().capacity()).has_value();
  }

  Device device = stepped();
  HostMemory memory;
  void* native = made_stream(device);
  StreamRef stream = detail::unwrap(detail::stream_from_native(device, native));
  Stream own = Stream(device);
  DeviceBuffer<std::byte> target;

 private:
  static void* made_stream(const Device& on) {
    void* made = nullptr;
    REQUIRE(backend_of(on).create_stream(&made).ok());
    return made;
  }
};

}  // namespace

TEST_CASE("a tensor of a size that was there before gets the same memory") {
  Copies on(64 * MiB);
  for (const std::size_t size : {std::size_t{1}, std::size_t{4096}, 70 * KiB, 1 * MiB, 9 * MiB, 20 * MiB}) {
    Given* const first = given(on.memory, size);
    CHECK(reinterpret_cast<std::uintptr_t>(first->data) % 64 == 0);
    CHECK(first->bytes == size);
    void* const where = first->data;
    on.memory.release(first);
    Given* const second = given(on.memory, size);
    CHECK(second->data == where);
    on.memory.release(second);
  }
}

TEST_CASE("memory that a copy was recorded of, at any address in it, is not given out before the copy is done") {
  Copies on;
  std::size_t offset = 0;
  SUBCASE("its start") {}
  SUBCASE("its middle") { offset = 1000; }
  SUBCASE("its last byte") { offset = bytes - 1; }
  Given* const first = given(on.memory);
  void* const where = first->data;
  on.copy(*first, offset);
  on.memory.release(first);
  CHECK(!on.is_given_out(where));
  on.run();
  on.memory.empty_cache();
  CHECK(on.memory.heap().stats().in_flight == 0);
}

TEST_CASE("memory that is not the adapter's, or not any more, is told by false") {
  Copies on;
  std::array<std::byte, 64> local{};
  CHECK(!on.memory.record_use(local.data(), on.stream));
  CHECK(!on.memory.record_use(nullptr, on.stream));
  CHECK(!on.memory.contains(local.data()));
  Given* const dropped = given(on.memory);
  void* const where = dropped->data;
  CHECK(on.memory.contains(where));
  on.memory.release(dropped);
  CHECK(!on.memory.record_use(where, on.stream));
  on.memory.empty_cache();
  CHECK(!on.memory.record_use(where, on.stream));
  on.memory.release(nullptr);
}

TEST_CASE("figures add up: what tensors hold, and what the arena has pinned") {
  Copies on(1 * MiB, 8 * MiB);
  CHECK(is(on.memory.figures().segments, 1, 1, 1, 0));
  CHECK(is(on.memory.figures().segment_bytes, 1 * MiB, 1 * MiB, 1 * MiB, 0));
  Given* const one = given(on.memory, 100);
  Given* const two = given(on.memory, 50);
  CHECK(is(on.memory.figures().requests, 2, 2, 2, 0));
  CHECK(is(on.memory.figures().request_bytes, 150, 150, 150, 0));
  on.memory.release(one);
  CHECK(is(on.memory.figures().requests, 1, 2, 2, 1));
  CHECK(is(on.memory.figures().request_bytes, 50, 150, 150, 100));
  on.memory.forget_peaks();
  on.memory.forget_totals();
  CHECK(is(on.memory.figures().requests, 1, 1, 0, 0));
  CHECK(is(on.memory.figures().request_bytes, 50, 50, 0, 0));
  on.memory.release(two);
  CHECK(is(on.memory.figures().request_bytes, 0, 50, 0, 50));

  Given* const large = given(on.memory, 3 * MiB);
  const auto grown = on.memory.figures();
  CHECK(grown.segments.current == 2);
  CHECK(grown.segment_bytes.current == static_cast<std::int64_t>(on.memory.arena().capacity()));
  std::int64_t counted = 0;
  for (const std::int64_t of_size : grown.segments_by_size) counted += of_size;
  CHECK(counted == 2);
  CHECK(grown.segments_by_size[20] == 1);  // 1 MiB
  on.memory.release(large);
  on.memory.empty_cache();
  CHECK(on.memory.figures().segments.current == 1);
  CHECK(on.memory.figures().segment_bytes.current == static_cast<std::int64_t>(on.memory.arena().capacity()));
  CHECK(on.memory.arena().capacity() == 1 * MiB);
}

TEST_CASE("what counts is exact when many threads have counted, and a peak is no more than there was") {
  Counted counted;
  constexpr int threads = 4, rounds = 20000;
  std::vector<std::thread> all;
  for (int i = 0; i != threads; ++i)
    all.emplace_back([&] {
      for (int round = 0; round != rounds; ++round) {
        counted.add(3);
        counted.take(3);
      }
      counted.add(5);
    });
  for (auto& thread : all) thread.join();
  const Count count = counted.read();
  CHECK(count.current == threads * 5);
  CHECK(count.allocated == threads * (3 * rounds + 5));
  CHECK(count.freed == threads * 3 * rounds);
  CHECK(count.peak >= threads * 5);
}

TEST_CASE("where memory is short, what copies hold is waited for; where none comes back it is an error with a name") {
  const Device device = Device::simulated();  // runs by itself
  HostMemory memory(device, 1 * MiB, 0);
  const Stream stream(device);
  DeviceBuffer<std::byte> target(stream, bytes);
  stream.synchronize();
  device.simulation().hold(stream);
  Given* const first = given(memory, 900 * KiB);
  REQUIRE(backend_of(device)
              .copy(target.span().native(), first->data, bytes, detail::CopyKind::host_to_device, stream.native())
              .ok());
  CHECK(memory.record_use(first->data, stream));
  memory.release(first);
  const auto asked = device.simulation().calls(SimulatedCall::query_event);
  std::atomic<bool> over{false};
  std::thread waits([&] {
    auto second = memory.allocate(900 * KiB);
    over = true;
    REQUIRE(second.has_value());
    memory.release(*second);
  });
  // So often asks only who waits.
  until([&] { return over || device.simulation().calls(SimulatedCall::query_event) > asked + 20; });
  CHECK(!over);
  device.simulation().release(stream);
  waits.join();
  Given* const held = given(memory, 900 * KiB);
  errc_text_of(memory.allocate(900 * KiB), Errc::out_of_memory);
  errc_text_of(memory.allocate(2 * MiB), Errc::too_large);
  CHECK(memory.figures().requests.current == 1);
  memory.release(held);
}

TEST_CASE("a graph keeps what was recorded in its capture until it cannot be replayed any more") {
  Copies on;
  Given* const input = given(on.memory);
  void* const where = input->data;
  on.memory.begin_capture({1, 0});
  CHECK(on.memory.captures());
  on.device.simulation().begin_capture(on.stream);
  on.copy(*input);
  {
    const auto graph = on.device.simulation().end_capture(on.stream);
    on.memory.end_capture({1, 0});
    CHECK(!on.memory.captures());
    on.memory.release(input);
    on.memory.empty_cache();
    CHECK(!on.is_given_out(where));
    CHECK(on.memory.figures().requests.current == 0);
    CHECK(!on.all_free());
  }
  on.run();
  until([&] { return on.all_free(); });
}

TEST_CASE("memory given out on a capturing stream is the graph's, though nobody records a use of it") {
  Copies on;
  on.memory.begin_capture({0, 7});
  // Before the capture itself begins, and on a stream that takes no part, it is memory as any.
  Given* const before = given(on.memory);
  on.memory.keep_in_capture(*before, on.stream);
  CHECK(!on.memory.heap().find(before->data)->in_flight);
  on.device.simulation().begin_capture(on.stream);
  const Stream other(on.device);
  Given* const beside = given(on.memory);
  on.memory.keep_in_capture(*beside, other);
  Given* const inside = given(on.memory);
  on.memory.keep_in_capture(*inside, on.stream);
  void* const where = inside->data;
  on.memory.release(before);
  on.memory.release(beside);
  on.memory.release(inside);
  {
    auto graph = on.device.simulation().end_capture(on.stream);
    on.memory.end_capture({0, 7});
    const auto exec = graph.instantiate();
    { const auto gone = std::move(graph); }
    on.memory.empty_cache();
    CHECK(!on.is_given_out(where));
    CHECK(!on.all_free());
  }
  on.run();
  until([&] { return on.all_free(); });
}

TEST_CASE("captures of several pools go on at once, and the end of one that nobody announced changes nothing") {
  Copies on;
  on.memory.end_capture({9, 0});
  CHECK(!on.memory.captures());
  on.memory.begin_capture({1, 0});
  on.memory.begin_capture({2, 0});
  on.memory.end_capture({9, 0});
  on.memory.end_capture({1, 0});
  CHECK(on.memory.captures());
  on.memory.end_capture({2, 0});
  CHECK(!on.memory.captures());
}

TEST_CASE("no memory at all, or less at most than at once, is refused as an arena refuses it") {
  const Device device = stepped();
  errc_text([&] { const HostMemory none(device, 0, 0); }, Errc::invalid_argument);
  const HostMemory fixed(device, 1 * MiB, 1);
  CHECK(fixed.arena().stats().max_capacity == 1 * MiB);
}

TEST_CASE("a worker process that PyTorch forks drops its parent's tensors, and gets no memory" *
          doctest::skip(THOLE_TEST_SANITIZED)) {
  Copies on;
  Given* const mine = given(on.memory);
  Given* const flying = given(on.memory);
  on.copy(*flying);
  CHECK(in_child([&] {
          on.memory.release(mine);
          on.memory.release(flying);
          const auto none = on.memory.allocate(bytes);
          return !none && none.error().errc() == Errc::device_lost ? 0 : 1;
        }) == 0);
  CHECK(on.memory.figures().requests.current == 2);
  on.memory.release(mine);
  on.memory.release(flying);
}
