// <thole/heap.hpp>

#include <doctest/doctest.h>

#include <array>
#include <cstdint>
#include <limits>
#include <range/v3/view/iota.hpp>
#include <range/v3/view/transform.hpp>
#include <ranges>
#include <string>
#include <thread>
#include <vector>

#include "support/rig.hpp"

using namespace support;

TEST_CASE("an alignment that is no power of two, or is above a page, is an error with the number") {
  const PinnedArena arena(stepped(), {.bytes = MiB});
  for (const std::size_t alignment : {std::size_t{0}, std::size_t{3}, std::size_t{96}, std::size_t{8192}})
    CHECK(has(errc_text([&] { (void)PinnedHeap(arena, {.alignment = alignment}); }, Errc::invalid_argument),
              std::to_string(alignment)));
}

TEST_CASE("every buffer starts at a multiple of the heap's alignment, also when it is used again") {
  const PinnedArena arena(stepped(), {.bytes = 4 * MiB});
  for (std::size_t alignment = 1; alignment <= 4096; alignment *= 2) {
    const PinnedHeap heap(arena, {.alignment = alignment});
    for (int round = 0; round != 3; ++round) {
      std::vector<PinnedBuffer<std::byte>> buffers;
      for (const auto bytes : std::initializer_list<std::size_t>{1, 63, 100, 1000, 5000, 70000}) {
        buffers.push_back(heap.make_buffer<std::byte>(bytes));
        CHECK(reinterpret_cast<std::uintptr_t>(buffers.back().unsynchronized_data()) % alignment == 0);
      }
    }
  }
}

TEST_CASE("an element's own alignment counts where it is larger; more than a page is an error") {
  const Rig rig;
  struct alignas(1024) Wide {
    char bytes[1024];
  };
  struct alignas(8192) TooWide {
    char bytes[8192];
  };
  for (int i = 0; i != 10; ++i)
    CHECK(reinterpret_cast<std::uintptr_t>(rig.heap.make_buffer<Wide>(3).unsynchronized_data()) % 1024 == 0);
  CHECK(has(errc_text([&] { (void)rig.heap.make_buffer<TooWide>(1); }, Errc::invalid_argument), "8192"));
}

TEST_CASE("more elements than a size can say is too_large, with both numbers") {
  const Rig rig;
  const auto count = std::numeric_limits<std::size_t>::max() / 2;
  const auto text = errc_text([&] { (void)rig.heap.make_buffer<double>(count); }, Errc::too_large);
  CHECK(has(text, std::to_string(count)));
  CHECK(has(text, "8 bytes"));
  CHECK(rig.all_free());
}

TEST_CASE("more than the arena could ever hold is too_large, with both numbers") {
  const Rig rig;
  const auto text = errc_text([&] { (void)rig.heap.make_buffer<std::byte>(MiB + 1); }, Errc::too_large);
  CHECK(has(text, std::to_string(MiB + 1)));
  CHECK(has(text, std::to_string(MiB)));
  errc_text_of(rig.heap.try_make_buffer<std::byte>(std::size_t{1} << 62), Errc::too_large);
  CHECK(rig.all_free());
}

TEST_CASE("a full arena is out_of_memory that tells wanted, free, largest, in flight, in use and capacity") {
  const Rig rig;
  const Stream stream(rig.device);
  auto half = rig.heap.make_buffer<std::byte>(512 * KiB);
  auto target = DeviceBuffer<std::byte>(stream, 256 * KiB);
  rig.heap.make_buffer<std::byte>(256 * KiB).async_to_device(stream, target.span());
  const auto text = errc_text_of(rig.heap.try_make_buffer<std::byte>(300 * KiB), Errc::out_of_memory);
  CHECK(has(text, std::to_string(300 * KiB) + " bytes"));
  CHECK(has(text, std::to_string(256 * KiB) + " free"));
  CHECK(has(text, std::to_string(256 * KiB) + " in the largest free piece"));
  CHECK(has(text, std::to_string(256 * KiB) + " in flight"));
  CHECK(has(text, std::to_string(512 * KiB) + " in use"));
  CHECK(has(text, std::to_string(MiB)));
  CHECK(rig.heap.make_buffer<std::byte>(256 * KiB).size() == 256 * KiB);
  // What has come back is in flight no more, and may be used again.
  rig.settle(stream);
  (void)rig.heap.collect();
  const auto again = rig.heap.make_buffer<std::byte>(256 * KiB);
  const auto later = errc_text_of(rig.heap.try_make_buffer<std::byte>(300 * KiB), Errc::out_of_memory);
  CHECK(has(later, " 0 in flight"));
  CHECK(has(later, std::to_string(768 * KiB) + " in use"));
}

TEST_CASE("the timed call says timed_out when nothing comes back, and takes what is there without waiting") {
  const Rig rig;
  auto all = rig.heap.make_buffer<std::byte>(MiB);
  errc_text_of(rig.heap.try_make_buffer_for<std::byte>(MiB, std::chrono::nanoseconds(0)), Errc::timed_out);
  { const auto gone = std::move(all); }
  CHECK(rig.heap.try_make_buffer_for<std::byte>(MiB, std::chrono::hours(1)).has_value());
}

TEST_CASE("a buffer of a value holds it in every element") {
  const Rig rig;
  const auto buffer = rig.heap.make_buffer<int>(1000, 42);
  for (const int value : buffer.borrow()) REQUIRE(value == 42);
}

TEST_CASE("a buffer is made from any sized range, std's, range-v3's, an array or a borrow") {
  const Rig rig;
  const std::vector<int> numbers{1, 2, 3};
  const auto sum = [](const auto& buffer) {
    long total = 0;
    for (const auto value : buffer.borrow()) total += static_cast<long>(value);
    return total;
  };
  CHECK(sum(rig.heap.make_buffer_from(numbers)) == 6);
  CHECK(sum(rig.heap.make_buffer_from(std::array<short, 2>{4, 5})) == 9);
  const int plain[] = {7, 8};
  CHECK(sum(rig.heap.make_buffer_from(plain)) == 15);
  CHECK(sum(rig.heap.make_buffer_from(numbers | std::views::transform([](int n) { return n * 2; }))) == 12);
  CHECK(sum(rig.heap.make_buffer_from(ranges::views::iota(0, 10) |
                                      ranges::views::transform([](int n) { return n; }))) == 45);
  const auto made = rig.heap.make_buffer_from(numbers);
  CHECK(sum(rig.heap.make_buffer_from(made.borrow())) == 6);
  CHECK(rig.heap.make_buffer_from(std::vector<int>{}).empty());
}

TEST_CASE("the twins of the calls that fill a buffer return the error instead of throwing it") {
  const Rig rig;
  const auto sevens = rig.heap.try_make_buffer<int>(3, 7);
  REQUIRE(sevens);
  for (const int value : sevens->borrow()) CHECK(value == 7);
  const auto copied = rig.heap.try_make_buffer_from(std::vector<int>{1, 2});
  REQUIRE(copied);
  CHECK(copied->borrow()[1] == 2);
  errc_text_of(rig.heap.try_make_buffer<char>(2 * MiB, 'x'), Errc::too_large);
  errc_text_of(rig.heap.try_make_buffer_from(std::vector<char>(2 * MiB)), Errc::too_large);
  errc_text([&] { (void)rig.heap.make_buffer_from(std::vector<char>(2 * MiB)); }, Errc::too_large);
}

TEST_CASE("draining for a time says timed_out while the device uses a buffer, and then that it is drained") {
  const Rig rig;
  const Stream stream(rig.device);
  auto target = DeviceBuffer<std::byte>(stream, KiB);
  rig.heap.make_buffer<std::byte>(KiB).async_to_device(stream, target.span());
  CHECK(has(errc_text_of(rig.heap.drain_for(std::chrono::nanoseconds(7)), Errc::timed_out), "7 ns"));
  CHECK(rig.heap.stats().in_flight == KiB);
  rig.settle(stream);
  CHECK(rig.heap.drain_for(std::chrono::hours(1)).has_value());
  CHECK(rig.heap.stats().in_flight == 0);
}

TEST_CASE("stats count what was made, freed at once, deferred and recycled") {
  const Rig rig;
  const Stream stream(rig.device);
  auto target = DeviceBuffer<std::byte>(stream, KiB);
  { const auto at_once = rig.heap.make_buffer<std::byte>(KiB); }
  rig.heap.make_buffer<std::byte>(KiB).async_to_device(stream, target.span());
  auto stats = rig.heap.stats();
  CHECK(stats.buffers_made == 2);
  CHECK(stats.freed_at_once == 1);
  CHECK(stats.deferred == 1);
  CHECK(stats.recycled == 0);
  CHECK(stats.in_flight == KiB);
  CHECK(stats.most_in_flight == 1);
  CHECK(stats.peak >= KiB);
  rig.settle(stream);
  CHECK(rig.heap.collect() == 1);
  stats = rig.heap.stats();
  CHECK(stats.recycled == 1);
  CHECK(stats.in_flight == 0);
  CHECK(stats.in_use == 0);
}

TEST_CASE("the most in flight is that of one time, and not of all times together") {
  const Rig rig;
  const Stream stream(rig.device);
  auto target = DeviceBuffer<std::byte>(stream, KiB);
  for (int round = 0; round != 3; ++round) {
    for (int i = 0; i != 2; ++i) rig.heap.make_buffer<std::byte>(KiB).async_to_device(stream, target.span());
    rig.settle(stream);
    CHECK(rig.heap.collect() == 2);
  }
  CHECK(rig.heap.stats().deferred == 6);
  CHECK(rig.heap.stats().most_in_flight == 2);
}

TEST_CASE("what one thread makes and another drops is counted for the heap once, and never below 0") {
  const Rig rig;
  std::vector<PinnedBuffer<std::byte>> buffers;
  for (int i = 0; i != 10; ++i) buffers.push_back(rig.heap.make_buffer<std::byte>(1000));
  std::thread([&] { buffers.erase(buffers.begin() + 4, buffers.end()); }).join();
  CHECK(rig.heap.stats().in_use == 4 * KiB);
  CHECK(rig.heap.stats().freed_at_once == 6);
  std::thread([&] { buffers.clear(); }).join();
  CHECK(rig.heap.stats().in_use == 0);
}
