// Rule 10: a program that holds much memory behind one stream can see which stream, and where the memory was made. One
// case steps one of two streams, and one loses its device: both are simulated.

#include <time.h>

#include <algorithm>
#include <string>
#include <vector>

#include "../support/rig.hpp"

using namespace support;

namespace {

using Bytes = PinnedBuffer<std::byte>;

Bytes in_flight(const Rig& rig, const StreamRef& stream, DeviceBuffer<std::byte>& target, std::size_t bytes,
                std::source_location where = std::source_location::current()) {
  auto made = rig.heap.make_buffer<std::byte>(bytes, where);
  made.async_to_device(stream, target.span(), 0, 1);
  return made;
}

const InFlightStream& of(const Report& report, std::size_t index) {
  REQUIRE(index < report.streams.size());
  return report.streams[index];
}

}  // namespace

TEST_CASE("with nothing in flight and no buffer the report is empty and says so") {
  const Rig rig(under_test());
  { const auto idle = rig.heap.make_buffer<std::byte>(4 * KiB); }
  const auto report = rig.heap.report();
  CHECK(report.streams.empty());
  CHECK(report.blocks.empty());
  CHECK(report.text() == "nothing in flight\n");
}

TEST_CASE("a block in flight is reported with its stream, bytes, age, place and whether it was dropped") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  DeviceBuffer<std::byte> target(stream, 64 * KiB);
  rig.settle(stream);
  Gate gate(rig, stream);
  const auto line = std::source_location::current().line() + 1;
  auto buffer = rig.heap.make_buffer<std::byte>(64 * KiB);
  buffer.async_to_device(stream, target.span());
  for (const bool dropped : {false, true}) {
    if (dropped) const auto gone = std::move(buffer);
    const auto report = rig.heap.report();
    REQUIRE(report.blocks.size() == 1);
    const auto& block = report.blocks.front();
    CHECK(block.bytes >= 64 * KiB);
    CHECK(block.bytes < 128 * KiB);
    CHECK(block.age >= std::chrono::nanoseconds(0));
    CHECK(block.made_at.line() == line);
    CHECK(std::string(block.made_at.file_name()).ends_with("report_test.cpp"));
    CHECK(block.dropped == dropped);
    REQUIRE(report.streams.size() == 1);
    CHECK(report.streams[0].stream_id == block.stream_id);
    CHECK(report.streams[0].blocks == 1);
    CHECK(report.streams[0].bytes == block.bytes);
    CHECK(report.streams[0].oldest == block.age);
  }
  gate.open();
  until([&] {  // the event behind it may be made only when somebody asks
    rig.finish(stream);
    (void)rig.heap.collect();
    return rig.heap.report().blocks.empty();
  });
}

TEST_CASE("streams are reported by bytes, the one that holds most first") {
  const Rig rig(under_test());
  const Stream small(rig.device), large(rig.device), middle(rig.device);
  DeviceBuffer<std::byte> target(small, 1);
  rig.settle(small);
  Gate gate(rig, small);
  for (const Stream* stream : {&large, &middle}) stream->wait(small.record());
  std::vector<Bytes> held;
  held.push_back(in_flight(rig, small, target, 4 * KiB));
  held.push_back(in_flight(rig, large, target, 256 * KiB));
  for (int i = 0; i != 5; ++i) held.push_back(in_flight(rig, middle, target, 8 * KiB));
  const auto report = rig.heap.report();
  REQUIRE(report.streams.size() == 3);
  CHECK(of(report, 0).blocks == 1);
  CHECK(of(report, 1).blocks == 5);
  CHECK(of(report, 2).blocks == 1);
  CHECK(of(report, 0).bytes >= 256 * KiB);
  CHECK(of(report, 1).bytes >= 40 * KiB);
  CHECK(of(report, 2).bytes >= 4 * KiB);
  CHECK(of(report, 0).bytes > of(report, 1).bytes);
  CHECK(of(report, 1).bytes > of(report, 2).bytes);
  CHECK(report.blocks.size() == 7);
  gate.open();
  for (const StreamRef& stream : {StreamRef(large), StreamRef(small), StreamRef(middle)}) rig.settle(stream);
  until([&] {
    (void)rig.heap.collect();
    return rig.heap.report().streams.empty();
  });
}

TEST_CASE("the streams' sums are those of their blocks") {
  const Rig rig(under_test());
  const Stream a(rig.device), b(rig.device);
  DeviceBuffer<std::byte> target(a, 1);
  rig.settle(a);
  Gate gate(rig, a);
  b.wait(a.record());
  for (std::size_t i = 1; i != 9; ++i) (void)in_flight(rig, i % 3 == 0 ? a : b, target, i * KiB);
  const auto report = rig.heap.report();
  REQUIRE(report.streams.size() == 2);
  for (const auto& stream : report.streams) {
    InFlightStream sum;
    for (const auto& block : report.blocks) {
      if (block.stream_id != stream.stream_id) continue;
      CHECK(block.dropped);
      ++sum.blocks;
      sum.bytes += block.bytes;
      sum.oldest = std::max(sum.oldest, block.age);
    }
    CHECK(sum.blocks == stream.blocks);
    CHECK(sum.bytes == stream.bytes);
    CHECK(sum.oldest == stream.oldest);
  }
}

TEST_CASE("a block that two streams read is reported under both, until each is done") {
  const Rig rig;
  const Stream a(rig.device), b(rig.device);
  DeviceBuffer<std::byte> one(a, 4 * KiB), two(b, 4 * KiB);
  rig.settle(a);
  rig.settle(b);
  const auto buffer = rig.heap.make_buffer<std::byte>(4 * KiB);
  buffer.async_to_device(a, one.span());
  buffer.async_to_device(b, two.span());
  CHECK(rig.heap.report().streams.size() == 2);
  (void)a.native();  // an event behind the copy
  rig.sim().step(a, 2);
  (void)rig.heap.collect();
  CHECK(rig.heap.report().streams.size() == 1);
}

TEST_CASE("a heap reports its own buffers only") {
  const Rig rig(under_test());
  const PinnedHeap other(rig.arena);
  const Stream stream(rig.device);
  DeviceBuffer<std::byte> target(stream, 1);
  rig.settle(stream);
  Gate gate(rig, stream);
  const auto buffer = in_flight(rig, stream, target, 4 * KiB);
  CHECK(rig.heap.report().blocks.size() == 1);
  CHECK(other.report().blocks.empty());
}

TEST_CASE("a buffer made by a copy to the host is reported as well") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  DeviceBuffer<std::byte> target(stream, 4 * KiB);
  rig.settle(stream);
  Gate gate(rig, stream);
  const auto line = std::source_location::current().line() + 1;
  const auto back = target.async_to_host(stream, rig.heap);
  const auto report = rig.heap.report();
  REQUIRE(report.blocks.size() == 1);
  CHECK(!report.blocks[0].dropped);
  CHECK(has(report.text(), "report_test.cpp:" + std::to_string(line)));
}

TEST_CASE("the text names each stream and, below it, each place with its blocks, bytes and dropped ones") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  DeviceBuffer<std::byte> target(stream, 1);
  rig.settle(stream);
  Gate gate(rig, stream);
  const auto first = std::source_location::current().line() + 1;
  for (int i = 0; i != 3; ++i) (void)in_flight(rig, stream, target, 4 * KiB);
  const auto kept = in_flight(rig, stream, target, 4 * KiB);
  const auto report = rig.heap.report();
  const auto text = report.text();
  REQUIRE(report.streams.size() == 1);
  CHECK(has(text, "stream " + std::to_string(report.streams[0].stream_id) + ": 4 blocks, " +
                      std::to_string(report.streams[0].bytes) + " bytes, oldest "));
  CHECK(has(text, "report_test.cpp:" + std::to_string(first) + ": 3 blocks, "));
  CHECK(has(text, "report_test.cpp:" + std::to_string(first + 1) + ": 1 block, "));
  CHECK(has(text, "3 dropped"));
  CHECK(has(text, "0 dropped"));
  CHECK(std::count(text.begin(), text.end(), '\n') == 5);  // and what the program holds: `kept`
}

TEST_CASE("the age counts from the oldest use that is open") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  DeviceBuffer<std::byte> target(stream, 1);
  rig.settle(stream);
  Gate gate(rig, stream);
  timespec before{};  // on the clock that stamps uses: the steady clock's last tick
  REQUIRE(clock_gettime(CLOCK_MONOTONIC_COARSE, &before) == 0);
  const auto buffer = in_flight(rig, stream, target, 4 * KiB);
  const auto age = rig.heap.report().blocks.at(0).age;
  const auto began = std::chrono::seconds(before.tv_sec) + std::chrono::nanoseconds(before.tv_nsec);
  CHECK(age <= std::chrono::steady_clock::now().time_since_epoch() - began);
  buffer.async_to_device(stream, target.span(), 0, 1);  // a later use does not make it younger
  CHECK(rig.heap.report().blocks.at(0).age >= age);
}

TEST_CASE("a report can be made on a lost device and during a capture") {
  const Rig rig;
  const Stream stream(rig.device);
  DeviceBuffer<std::byte> target(stream, 1);
  rig.settle(stream);
  const auto buffer = in_flight(rig, stream, target, 4 * KiB);
  rig.sim().begin_capture(stream);
  CHECK(rig.heap.report().blocks.size() == 1);
  (void)rig.sim().end_capture(stream);
  rig.sim().lose_device();
  CHECK(rig.heap.report().blocks.size() == 1);
}
