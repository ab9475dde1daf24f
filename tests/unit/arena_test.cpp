// <thole/arena.hpp>

#include <doctest/doctest.h>

#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "support/rig.hpp"

using namespace support;

TEST_CASE("an arena of 0 bytes is an error that says so") {
  CHECK(has(errc_text([] { (void)PinnedArena(stepped(), {.bytes = 0}); }, Errc::invalid_argument), "0 bytes"));
}

TEST_CASE("an arena of 1 byte has one page, and a buffer may take it all") {
  const Rig rig(stepped(), {.bytes = 1});
  CHECK(rig.arena.capacity() == 4096);
  CHECK(rig.heap.make_buffer<std::byte>(4096).size() == 4096);
}

TEST_CASE("max_bytes below bytes is an error with both numbers") {
  const auto text =
      errc_text([] { (void)PinnedArena(stepped(), {.bytes = 8192, .max_bytes = 4096}); }, Errc::invalid_argument);
  CHECK(has(text, "8192"));
  CHECK(has(text, "4096"));
}

TEST_CASE("an arena larger than the machine is an error with the number, and leaves nothing pinned") {
  const Device device = stepped();
  const std::size_t bytes = std::size_t{1} << 45;
  const auto made = PinnedArena::try_make(device, {.bytes = bytes});
  REQUIRE_FALSE(made);
  const bool right = made.error().errc() == Errc::limit || made.error().errc() == Errc::out_of_memory;
  CHECK(right);
  CHECK(has(made.error().what(), std::to_string(bytes)));
  CHECK(device.simulation().arena_bytes() == 0);
  CHECK(PinnedArena(device, {.bytes = MiB}).capacity() == MiB);
}

TEST_CASE("what the device will not pin is an error, and the next arena works") {
  const Device device = Device::simulated({.max_pinned_bytes = 2 * MiB, .stepped = true});
  const auto made = PinnedArena::try_make(device, {.bytes = 16 * MiB});
  REQUIRE_FALSE(made);
  CHECK(made.error().errc() == Errc::limit);
  CHECK(has(made.error().what(), std::to_string(16 * MiB)));
  CHECK(PinnedArena(device, {.bytes = MiB}).capacity() == MiB);
}

TEST_CASE("a NUMA node that cannot exist is an error") {
  CHECK(has(errc_text([] { (void)PinnedArena(stepped(), {.bytes = MiB, .numa_node = -7}); }, Errc::invalid_argument),
            "-7"));
}

TEST_CASE("an arena contains its buffers and nothing else") {
  const Rig rig;
  const auto buffer = rig.heap.make_buffer<int>(100);
  const int outside = 0;
  CHECK(rig.arena.contains(buffer.unsynchronized_data()));
  CHECK(rig.arena.contains(buffer.unsynchronized_data() + 99));
  CHECK_FALSE(rig.arena.contains(&outside));
  CHECK_FALSE(rig.arena.contains(nullptr));
}

TEST_CASE("an arena grows to max_bytes and no further, and trim gives back what it grew by") {
  Rig rig(stepped(), {.bytes = MiB, .max_bytes = 4 * MiB});
  {
    std::vector<PinnedBuffer<std::byte>> buffers;
    for (int i = 0; i != 3; ++i) buffers.push_back(rig.heap.make_buffer<std::byte>(MiB));
    CHECK(rig.arena.stats().grown > 0);
    CHECK(rig.arena.capacity() <= 4 * MiB);
    errc_text_of(rig.heap.try_make_buffer<std::byte>(2 * MiB), Errc::out_of_memory);
  }
  CHECK(rig.arena.trim() > 0);
  CHECK(rig.arena.capacity() == MiB);
  CHECK(rig.heap.make_buffer<std::byte>(MiB).size() == MiB);
}

TEST_CASE("stats tell what is in use, in flight and kept") {
  const Rig rig;
  const Stream stream(rig.device);
  auto target = DeviceBuffer<std::byte>(stream, 32 * KiB);
  auto kept = rig.heap.make_buffer<std::byte>(32 * KiB);
  rig.heap.make_buffer<std::byte>(32 * KiB).async_to_device(stream, target.span());
  const auto stats = rig.arena.stats();
  CHECK(stats.capacity == MiB);
  CHECK(stats.in_use == 32 * KiB);
  CHECK(stats.in_flight == 32 * KiB);
  CHECK(stats.buffers_made == 2);
  CHECK(stats.regions == 1);
  CHECK(stats.peak >= 64 * KiB);
  rig.settle(stream);
  rig.heap.collect();
  CHECK(rig.arena.stats().in_flight == 0);
  CHECK(rig.arena.stats().cached >= 32 * KiB);
}

TEST_CASE("a picture is one SVG with a rectangle for what is in use") {
  const Rig rig;
  const auto buffer = rig.heap.make_buffer<std::byte>(256 * KiB);
  std::ostringstream out;
  rig.arena.draw_svg(out);
  const std::string svg = out.str();
  CHECK(svg.starts_with("<svg"));
  CHECK(svg.ends_with("</svg>\n"));
  CHECK(has(svg, "262144 bytes"));
  CHECK(has(svg, "in use"));
}

TEST_CASE("an arena's stats are those of all its heaps, and count what ended ones have made") {
  const Rig rig;
  const auto first = rig.heap.make_buffer<std::byte>(64 * KiB);
  std::optional<PinnedHeap> other(std::in_place, rig.arena);
  std::optional second(other->make_buffer<std::byte>(64 * KiB));
  CHECK(rig.arena.stats().in_use == 128 * KiB);
  CHECK(rig.arena.stats().buffers_made == 2);
  other.reset();
  CHECK(rig.arena.stats().in_use == 128 * KiB);
  second.reset();
  CHECK(rig.arena.stats().in_use == 64 * KiB);
  CHECK(rig.arena.stats().buffers_made == 2);
  const PinnedHeap next(rig.arena);
  CHECK(next.stats().buffers_made == 0);
  CHECK(next.stats().peak == 0);
  CHECK(rig.arena.stats().buffers_made == 2);
}
