// Where the system has no memory for thole's own records a call fails with a code, and nothing is lost by that; what
// cannot fail goes on. Drivers may need memory at any moment, so that the device is simulated.

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <optional>
#include <stdexcept>
#include <string_view>
#include <thread>
#include <vector>

#include <thole/thole.h>
#include <thole/graph.hpp>

#include "../support/adopted.hpp"
#include "../support/allocations.hpp"
#include "../support/rig.hpp"
#include "../support/sanitized.hpp"
#include "blocks/block_pool.hpp"
#include "memory/store.hpp"

using namespace support;

namespace {

constexpr std::size_t bytes = 4 * KiB;

/// Calls `f()` with memory for 0, 1, 2, ... allocations, until it returns true: it has succeeded. It must end each
/// time.
template <class F>
void with_ever_more_memory(F f, std::size_t most = 2000) {
  for (std::size_t allocations = 0; allocations != most; ++allocations) {
    bool done = false;
    {
      const NoMemory no_memory(allocations);
      done = f();
    }
    if (done) return;
  }
  FAIL_CHECK("it never succeeds");
}

/// Bytes that the process has mapped.
std::size_t addresses_in_use() {
  std::array<char, 32> text{};
  const int file = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
  REQUIRE(read(file, text.data(), text.size() - 1) > 0);
  close(file);
  return std::strtoul(text.data(), nullptr, 10) * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace

TEST_CASE("an arena that cannot be made for want of memory leaves nothing pinned" *
          doctest::skip(THOLE_TEST_SANITIZED)) {
  for (const std::size_t size : {4 * MiB, 64 * MiB}) {  // the large one is touched by several threads
    const Rig rig;
    const auto before = rig.sim().arena_bytes();
    for (int repeat = 0; repeat != 2; ++repeat)  // with records that are used again, and with memory that stayed pinned
      with_ever_more_memory([&] {
        const auto made = PinnedArena::try_make(rig.device, {.bytes = size});
        return made.has_value();
      });
    CHECK(rig.sim().arena_bytes() == before);
    CHECK(rig.sim().pinned_bytes() <= before + size);
  }
}

TEST_CASE("memory that a device refuses goes back also where there is none for the refusal's words" *
          doctest::skip(THOLE_TEST_SANITIZED)) {
  const Rig rig;
  std::size_t before = 0, worst = 0;
  with_ever_more_memory([&] {
    rig.sim().fail_call(SimulatedCall::register_host, 1);
    const auto refused = PinnedArena::try_make(rig.device, {.bytes = 16 * MiB});
    REQUIRE(!refused);
    const std::size_t now = addresses_in_use();
    if (before == 0) before = now;
    worst = std::max(worst, now);
    return std::string_view(refused.error().what()).find("register_host said") != std::string_view::npos;
  });
  rig.sim().fail_call(SimulatedCall::register_host, 0);
  CHECK(worst < before + 16 * MiB);
}

TEST_CASE("a region that is refused where there is no memory for the refusal's words stays for the next arena" *
          doctest::skip(THOLE_TEST_SANITIZED)) {
  const Device device = stepped();
  std::optional<NoMemory> none;
  std::size_t left = 0;
  bool refuse = true;
  ArenaOptions options{.bytes = MiB, .max_bytes = 8 * MiB};
  options.on_region_added = [&](gsl::span<std::byte>) {
    if (!refuse) return;
    none.emplace(left);
    throw std::runtime_error("no");
  };
  for (; left != 8; ++left) {
    const auto refused = PinnedArena::try_make(device, options);
    none.reset();
    CHECK(!refused);
    CHECK(device.simulation().arena_bytes() == 0);
  }
  refuse = false;
  const PinnedHeap heap(PinnedArena(device, options));
  refuse = true;
  for (left = 0; left != 8; ++left) {
    const auto refused = heap.try_make_buffer<std::byte>(4 * MiB);
    none.reset();
    CHECK(!refused);
    CHECK(device.simulation().arena_bytes() == MiB);
  }
  CHECK(device.simulation().pinned_bytes() <= 10 * MiB);
}

TEST_CASE("adopted memory that cannot be pinned for want of memory leaves nothing behind" *
          doctest::skip(THOLE_TEST_SANITIZED)) {
  const Mapped memory(16 * KiB);
  const auto fail_and_adopt = [&] {
    const Device device = stepped();
    with_ever_more_memory([&] { return PinnedArena::try_adopt_buffer(device, memory.span(), [] {}).has_value(); });
    until([&] { return device.simulation().pinned_bytes() == 0; });  // what was adopted in the end
  };
  std::size_t most = 0;
  for (int repeat = 0; repeat != 4; ++repeat) {  // makes what is used again
    fail_and_adopt();
    most = std::max(most, live_allocations());
  }
  for (int repeat = 0; repeat != 32; ++repeat) fail_and_adopt();
  CHECK(live_allocations() < most + 16);  // the library's threads have some in hand for moments
}

TEST_CASE("a launch that fails for want of memory launches nothing" * doctest::skip(THOLE_TEST_SANITIZED)) {
  for (const bool beside : {false, true}) {  // branches run beside each other where nobody steps
    const Rig rig(beside ? Device::simulated() : stepped());
    const Stream stream(rig.device), other(rig.device);
    const auto settle = [&] { beside ? stream.synchronize() : rig.settle(stream); };
    auto buffer = rig.heap.make_buffer<std::byte>(bytes);
    DeviceBuffer<std::byte> target(stream, bytes);
    std::atomic<int> ran{0};
    auto graph = capture(stream,
                         [&] {
                           buffer.async_to_device(stream, target.span());
                           buffer.async_from_device(stream, target.span());
                           stream.launch_host_function([&] { ++ran; });
                           other.wait(stream.record());
                           other.launch_host_function([&] { ++ran; });
                           stream.launch_host_function([&] { ++ran; });
                           stream.wait(other.record());
                         },
                         {.completion = each_write});
    auto exec = graph.instantiate();
    exec.launch(stream);
    settle();
    int launched = 1;
    for (int repeat = 0; repeat != 2; ++repeat) {
      with_ever_more_memory([&] {
        const bool success = exec.try_launch(stream).has_value();
        if (success) ++launched;
        return success;
      });
      settle();
      CHECK(ran == 3 * launched);
      CHECK(buffer.try_borrow_mut().has_value());
    }
  }
}

TEST_CASE("an event of a graph says of a launch that failed for want of memory what it said before it" *
          doctest::skip(THOLE_TEST_SANITIZED)) {
  const Rig rig;
  const Stream stream(rig.device), other(rig.device);
  auto& backend = rig.backend();
  detail::EventHandle event = nullptr;
  REQUIRE(backend.create_event(&event).ok());
  auto graph = capture(stream, [&] {
    const auto native = static_cast<detail::StreamHandle>(stream.native());
    REQUIRE(backend.record_event_in_graph(event, native).ok());
    stream.launch_host_function([] {});
    stream.launch_host_function([] {});
  });
  auto first = graph.instantiate(), second = graph.instantiate();
  rig.sim().hold(stream);
  first.launch(stream);
  const auto launch_with_memory_for = [&](std::size_t allocations) {
    const NoMemory no_memory(allocations);
    return second.try_launch(other).has_value();
  };
  for (std::size_t allocations = 0; !launch_with_memory_for(allocations); ++allocations) {
    rig.sim().run_all();
    CHECK(backend.query_event(event).code == detail::StatusCode::not_ready);
  }
  rig.sim().release(stream);
  rig.sim().run_all();
  CHECK(backend.query_event(event).ok());
  for (std::size_t allocations = 0; !launch_with_memory_for(allocations); ++allocations)
    CHECK(backend.query_event(event).ok());
  rig.sim().run_all();
  CHECK(backend.destroy_event(event).ok());
}

TEST_CASE("device memory that cannot be had for want of ordinary memory is not lost" *
          doctest::skip(THOLE_TEST_SANITIZED)) {
  const Rig rig;
  const Stream stream(rig.device);
  with_ever_more_memory([&] { return DeviceBuffer<std::byte>::try_make(stream, bytes).has_value(); });
  (void)stream.native();
  until([&] {
    rig.sim().run_all();
    (void)rig.heap.collect();
    return rig.sim().device_bytes() == 0;
  });
}

TEST_CASE("an arena that cannot grow for want of memory says so, and grows when there is some" *
          doctest::skip(THOLE_TEST_SANITIZED)) {
  const Rig rig(stepped(), {.bytes = MiB, .max_bytes = 64 * MiB});
  std::vector<Errc> codes;
  codes.reserve(2000);
  with_ever_more_memory([&] {
    auto made = rig.heap.try_make_buffer<std::byte>(8 * MiB);
    if (!made) codes.push_back(made.error().errc());
    return made.has_value();
  });
  CHECK(!codes.empty());
  for (const Errc code : codes) CHECK(static_cast<int>(code) == static_cast<int>(Errc::out_of_memory));
  CHECK(rig.heap.stats().in_use == 0);
  CHECK(rig.arena.stats().regions == 2);
}

TEST_CASE("calls that have no memory fail, and are good when there is some" * doctest::skip(THOLE_TEST_SANITIZED)) {
  const Rig rig;
  const Stream stream(rig.device), other(rig.device);
  auto buffer = rig.heap.make_buffer<std::byte>(bytes);
  auto second = rig.heap.make_buffer<std::byte>(bytes);
  DeviceBuffer<std::byte> target(stream, bytes);
  std::optional<Stream> made;  // ends where there is memory
  with_ever_more_memory([&] {
    if (auto stream_made = Stream::try_make(rig.device)) made.emplace(std::move(*stream_made));
    return made.has_value();
  });
  with_ever_more_memory([&] { return stream.try_record({.timing = true}).has_value(); });
  with_ever_more_memory([&] { return buffer.try_async_to_device(stream, target.span()).has_value(); });
  with_ever_more_memory([&] { return buffer.try_async_to_device(other).has_value(); });
  with_ever_more_memory([&] { return try_use_on(other, reads(buffer), writes(second), [](auto&&...) {}).has_value(); });
  rig.sim().run_all();
  const Graph graph = capture(stream, [&] { buffer.async_to_device(stream, target.span()); });
  std::optional<GraphExec> exec;
  with_ever_more_memory([&] {
    if (auto exec_made = graph.try_instantiate()) exec.emplace(std::move(*exec_made));
    return exec.has_value();
  });
  with_ever_more_memory([&] {
    auto parts = std::move(second).try_split_at(bytes / 2);
    return parts.has_value();
  });
  auto third = rig.heap.make_buffer<std::byte>(bytes);
  with_ever_more_memory([&] {
    const std::size_t sizes[] = {0, 1, bytes - 1};
    const auto parts = std::move(third).try_split(sizes);
    CHECK((parts.has_value() || third.size() == bytes));  // nothing has changed
    return parts.has_value();
  });
  for (std::size_t allocations = 0; allocations != 20; ++allocations) {
    const NoMemory no_memory(allocations);
    (void)rig.heap.drain_for(std::chrono::nanoseconds(0));
    (void)rig.heap.collect();
  }
  rig.sim().run_all();
  CHECK(rig.heap.drain_for(std::chrono::nanoseconds(0)).has_value());
  if (const auto error = Device(rig.device).take_error()) FAIL_CHECK(std::string(error->what()));
}

TEST_CASE("records for which there is no memory are not counted" * doctest::skip(THOLE_TEST_SANITIZED)) {
  std::vector<detail::Block*> blocks;
  blocks.reserve(1'000'000);
  detail::ask_limits_again();
  for (const std::size_t touched = detail::record_bytes(); detail::record_bytes() == touched;)  // asks them
    blocks.push_back(detail::acquire_block());
  {
    const NoMemory no_memory;
    while (detail::Block* const block = detail::acquire_block()) {
      blocks.push_back(block);
      if (blocks.size() + 1000 == blocks.capacity()) break;
    }
  }
  const std::size_t before = detail::record_bytes();
  std::size_t refused = 0;
  {
    const NoMemory no_memory;
    for (int i = 0; i != 1000; ++i)
      if (detail::Block* const block = detail::acquire_block())
        blocks.push_back(block);  // a thread of the library's, of another case's, has just given one back
      else
        ++refused;
  }
  CHECK(refused >= 100);
  CHECK(detail::record_bytes() <= before);
  for (detail::Block* const block : blocks) detail::release_block(block);
}

TEST_CASE("while an arena's memory is listed for a picture, nobody waits for who allocates the list" *
          doctest::skip(THOLE_TEST_SANITIZED)) {
  const Device device = stepped();
  auto opened = detail::Store::open(detail::HandleAccess::core(device),
                                    {.bytes = 512 * MiB, .max_bytes = 512 * MiB, .region = {}});
  REQUIRE(opened);
  detail::Store& store = **opened;
  std::vector<detail::Block*> blocks(9'000);
  std::size_t made = 0;
  for (detail::Block*& block : blocks) made += store.allocate_batch(made % 2 == 0 ? 64 : 32 * KiB, 64, &block, 1);
  REQUIRE(made == blocks.size());
  std::size_t asked = 0;
  std::vector<detail::StoreSpan> spans;
  {
    const OnAllocation on_allocation([&] {
      ++asked;
      std::thread([&] { (void)store.stats(); }).join();
    });
    spans = store.spans();
  }
  CHECK(asked != 0);
  const auto is_block = [](const detail::StoreSpan& span) { return span.kind == detail::StoreSpan::Kind::block; };
  CHECK(static_cast<std::size_t>(std::ranges::count_if(spans, is_block)) == blocks.size());
  CHECK(std::ranges::is_sorted(spans, {}, &detail::StoreSpan::data));
  store.free_batch(blocks.data(), blocks.size());
  store.close();
}

TEST_CASE("the library's threads go on without memory" * doctest::skip(THOLE_TEST_SANITIZED)) {
  const Rig rig(stepped(), {.bytes = MiB}, {.background_reclaim = true});
  const Stream stream(rig.device);
  DeviceBuffer<std::byte> target(stream, bytes);
  std::optional<NoMemory> on_that_thread;
  const auto main_thread = std::this_thread::get_id();
  std::atomic<bool> without{false}, with{false};
  SUBCASE("the one that looks for finished blocks") {
    rig.heap.make_buffer<std::byte>(bytes).async_to_device(stream, target.span());
    const std::function<void()> take = [&] {
      if (std::this_thread::get_id() == main_thread) return rig.sim().before_call(SimulatedCall::query_event, take);
      on_that_thread.emplace();
      without = true;
    };
    rig.sim().before_call(SimulatedCall::query_event, take);
    until([&] { return without.load(); });
    const auto asked = rig.calls(SimulatedCall::query_event);
    until([&] { return rig.calls(SimulatedCall::query_event) > asked + 3; });  // some rounds later
    rig.sim().before_call(SimulatedCall::query_event, [&] {
      on_that_thread.reset();
      with = true;
    });
    until([&] { return with.load(); });
  }
  SUBCASE("the one that calls back") {
    // More events of more streams while it has no memory than it knew before.
    std::atomic<int> called{0};
    const auto count = [&called](const Result<void>&) { ++called; };
    Event first = stream.record();
    rig.sim().hold(stream);
    rig.sim().before_call(SimulatedCall::query_event, [&] {
      on_that_thread.emplace();
      without = true;
    });
    first.on_ready(count);
    until([&] { return without.load(); });
    std::vector<Stream> streams;
    for (int i = 0; i != 4; ++i) {
      streams.emplace_back(rig.device);
      streams.back().record().on_ready(count);
      streams.back().record().on_ready(count);
    }
    rig.sim().run_all();
    until([&] { return called.load() == 8; });
    rig.sim().before_call(SimulatedCall::query_event, [&] {
      on_that_thread.reset();
      with = true;
    });
    until([&] { return with.load(); });
    rig.sim().release(stream);
    until([&] { return called.load() == 9; });
  }
  rig.sim().run_all();
}

TEST_CASE("a call of C's that fails has its code, and never the text of another" *
          doctest::skip(THOLE_TEST_SANITIZED)) {
  std::string text;
  for (std::size_t allocations = 0; text != "thole_heap_drain: heap is NULL: invalid argument"; ++allocations) {
    REQUIRE(allocations != 100);
    CHECK(thole_stream_synchronize(nullptr, 0) == THOLE_INVALID_ARGUMENT);
    thole_status status = THOLE_OK;
    {
      const NoMemory no_memory(allocations);
      status = thole_heap_drain(nullptr, 0);
    }
    CHECK(status == THOLE_INVALID_ARGUMENT);
    text = thole_last_error();
    const bool own = text.find("heap is NULL") != std::string::npos;
    CHECK((own || text.find("no memory for this error's own text") != std::string::npos));
  }
}
