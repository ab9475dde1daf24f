// Who holds what: the report lists the buffers and borrows that the program holds, and an error says where a buffer was
// made.

#include <source_location>
#include <vector>

#include "../support/rig.hpp"

using namespace support;

namespace {

std::string place(std::uint_least32_t line) { return "live_report_test.cpp:" + std::to_string(line); }

}  // namespace

TEST_CASE("a full arena says who holds it: each live buffer with its place, and its borrows") {
  const Rig rig(under_test());
  const auto line = std::source_location::current().line() + 1;
  const auto one = rig.heap.make_buffer<std::byte>(64 * KiB), two = rig.heap.make_buffer<std::byte>(64 * KiB);
  auto three = rig.heap.make_buffer<std::byte>(64 * KiB);
  const auto first = one.borrow(), second = one.borrow();
  auto exclusive = three.borrow_mut();
  { auto dropped = std::move(three); }
  const auto report = rig.heap.report();
  REQUIRE(report.live.size() == 3);
  std::size_t borrows = 0, exclusives = 0, dropped = 0;
  for (const LiveBuffer& buffer : report.live) {
    CHECK(buffer.bytes >= 64 * KiB);
    CHECK(buffer.made_at.line() == (buffer.borrowed_mut ? line + 1 : line));
    borrows += buffer.borrows;
    exclusives += buffer.borrowed_mut ? 1 : 0;
    dropped += buffer.dropped ? 1 : 0;
  }
  CHECK(borrows == 2);
  CHECK(exclusives == 1);
  CHECK(dropped == 1);
  const auto text = report.text();
  CHECK(has(text, "held by the program: 3 buffers, 196608 bytes\n"));
  CHECK(has(text, place(line) + ": 2 buffers, 131072 bytes, 2 Borrows\n"));
  CHECK(has(text, place(line + 1) + ": 1 buffer, 65536 bytes, 1 BorrowMut, 1 dropped\n"));
  exclusive.drop();
  CHECK(rig.heap.report().live.size() == 2);
}

TEST_CASE("buffers of another heap, and free memory, are not listed") {
  const Rig rig(under_test());
  const PinnedHeap other(rig.arena);
  const auto buffer = other.make_buffer<int>(4);
  { const auto gone = rig.heap.make_buffer<int>(4); }
  CHECK(rig.heap.report().live.empty());
  CHECK(other.report().live.size() == 1);
}

TEST_CASE("the error of a borrow in the way says where the buffer was made") {
  const Rig rig(under_test());
  const auto line = std::source_location::current().line() + 1;
  auto buffer = rig.heap.make_buffer<int>(4);
  const auto borrow = buffer.borrow();
  CHECK(has(errc_text([&] { (void)buffer.borrow_mut(); }, Errc::borrowed), place(line)));
}
