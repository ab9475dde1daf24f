// PinnedArena::draw_svg: one well-formed picture that says what there is. No device takes part but for what is in
// flight: it is a simulated one.

#include <algorithm>
#include <cstdint>
#include <locale>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "inspect/draw_svg.hpp"
#include "support/rig.hpp"

using namespace support;

namespace {

/// Enough of XML to find what is wrong with a picture: elements nest, attributes are quoted, and every & is an entity
/// that XML knows. Empty: nothing.
std::string fault_of(std::string_view svg) {
  std::vector<std::string> open;
  std::size_t at = 0;
  bool ended = false;
  while (at < svg.size()) {
    const std::size_t next = svg.find('<', at);
    const std::string_view text = svg.substr(at, next == svg.npos ? svg.npos : next - at);
    if (text.find('>') != text.npos) return "a > in text";
    for (std::size_t i = text.find('&'); i != text.npos; i = text.find('&', i + 1)) {
      bool known = false;
      for (const std::string_view entity : {"&amp;", "&lt;", "&gt;", "&quot;"})
        known = known || text.substr(i).starts_with(entity);
      if (!known) return "a bare &";
    }
    if (open.empty() && text.find_first_not_of(" \n") != text.npos) return "text outside of the root";
    if (next == svg.npos) break;
    const std::size_t end = svg.find('>', next);
    if (end == svg.npos) return "an element that does not end";
    std::string_view tag = svg.substr(next + 1, end - next - 1);
    at = end + 1;
    if (tag.starts_with('/')) {
      if (open.empty() || open.back() != tag.substr(1)) return "</" + std::string(tag.substr(1)) + "> ends nothing";
      open.pop_back();
      ended = open.empty();
      continue;
    }
    if (ended) return "a second root";
    const bool alone = tag.ends_with('/');
    if (alone) tag.remove_suffix(1);
    std::size_t quotes = 0;
    for (const char c : tag) quotes += c == '"' ? 1 : 0;
    if (quotes % 2 != 0 || tag.find('<') != tag.npos) return "attributes of " + std::string(tag);
    if (!alone) open.emplace_back(tag.substr(0, tag.find(' ')));
  }
  return open.empty() && ended ? "" : "it does not end";
}

std::string picture_of(const PinnedArena& arena) {
  std::ostringstream out;
  arena.draw_svg(out);
  CHECK(fault_of(out.str()).empty());
  return out.str();
}

std::size_t count(const std::string& text, std::string_view part) {
  std::size_t found = 0;
  for (std::size_t at = text.find(part); at != text.npos; at = text.find(part, at + 1)) ++found;
  return found;
}

/// The addresses in the margin.
std::vector<std::uintptr_t> rows_of(const std::string& svg) {
  std::vector<std::uintptr_t> rows;
  constexpr std::string_view before = ">0x";
  for (std::size_t at = svg.find(before); at != svg.npos; at = svg.find(before, at + 1))
    rows.push_back(std::stoull(svg.substr(at + 1), nullptr, 16));
  return rows;
}

std::string address(const void* of) {
  std::ostringstream text;
  text << of;
  return text.str();
}

/// Thousands with a mark between, and a comma before the fraction.
struct Marks : std::numpunct<char> {
  char do_thousands_sep() const override { return '.'; }
  char do_decimal_point() const override { return ','; }
  std::string do_grouping() const override { return "\3"; }
};

}  // namespace

TEST_CASE("a picture has a title, totals, a scale, the address of each row, and shares in its legend") {
  const Rig rig(stepped(), {.bytes = MiB, .max_bytes = 8 * MiB});
  const auto buffer = rig.heap.make_buffer<std::byte>(256 * KiB);
  const std::string svg = picture_of(rig.arena);
  CHECK(has(svg, "<title>Pinned memory of simulated</title>"));
  CHECK(
      has(svg, "1048576 bytes (1 MiB) in 1 region, may grow to 8388608 bytes (8 MiB); 262144 bytes (256 KiB) in use"));
  CHECK(has(svg, ">address</text>"));
  for (const char* mark : {">4 KiB<", ">8 KiB<", ">12 KiB<", ">16 KiB<"}) CHECK(has(svg, mark));  // 64 rows of 16 KiB
  CHECK(has(svg, ">region 1 of 1: 1 MiB<"));
  CHECK(has(svg, "in use: 25.0 %, 256 KiB"));
  CHECK(has(svg, "free: 75.0 %, 768 KiB"));
  CHECK(svg.find("free: 75.0 %") < svg.find("in use: 25.0 %"));  // the largest share first
  const auto rows = rows_of(svg);
  REQUIRE(rows.size() == 64);
  const auto at = reinterpret_cast<std::uintptr_t>(buffer.unsynchronized_data());
  CHECK(std::ranges::count_if(rows, [at](std::uintptr_t row) { return row <= at && at < row + 16 * KiB; }) == 1);
}

TEST_CASE("a block tells where the mouse is its size, its state, where it was made, its stream and for how long") {
  const Rig rig(stepped(), {.bytes = 4 * MiB});
  const Stream stream(rig.device);
  auto target = DeviceBuffer<std::byte>(stream, 128 * KiB);
  const auto held = rig.heap.make_buffer<std::byte>(64 * KiB);
  rig.heap.make_buffer<std::byte>(128 * KiB).async_to_device(stream, target.span());
  const std::string svg = picture_of(rig.arena);
  CHECK(has(svg, "<title>65536 bytes (64 KiB) at " + address(held.unsynchronized_data()) + ", in use\nmade at "));
  CHECK(has(svg, "picture_test.cpp:"));
  CHECK(has(svg, "131072 bytes (128 KiB) at "));
  CHECK(has(svg, ", dropped, in flight\nused by stream " + std::to_string(stream.id()) + " for 0."));
  rig.settle(stream);
  (void)rig.heap.collect();
  const std::string later = picture_of(rig.arena);
  CHECK(later.find("used by stream") == later.npos);
  CHECK(has(later, "free, kept by a thread</title>"));
}

TEST_CASE("a block over several rows is one thing with a rectangle in each") {
  const Rig rig;
  const auto buffer = rig.heap.make_buffer<std::byte>(512 * KiB);
  const std::string svg = picture_of(rig.arena);
  const std::size_t from = svg.find("524288 bytes (512 KiB) at");
  const std::string block = svg.substr(from, svg.find("</g>", from) - from);
  CHECK(count(block, "<rect") == 32);
}

TEST_CASE("text of the program's, such as the names of files, cannot break a picture") {
  std::ostringstream out;
  detail::draw_svg({}, {"<b>&\"quoted\" \x01", "a > b && c < d"}, out);
  CHECK(fault_of(out.str()).empty());
  CHECK(has(out.str(), "&lt;b&gt;&amp;&quot;quoted&quot; ?"));
  CHECK(has(out.str(), "a &gt; b &amp;&amp; c &lt; d"));
}

TEST_CASE("numbers in a picture are SVG's whatever the stream's locale and flags") {
  const Rig rig;
  const auto buffer = rig.heap.make_buffer<std::byte>(100 * KiB);
  std::ostringstream out;
  out.imbue(std::locale(std::locale::classic(), new Marks));
  out << std::hex << std::scientific;
  rig.arena.draw_svg(out);
  CHECK(out.str() == picture_of(rig.arena));
}

TEST_CASE("an arena of several regions has rows for each") {
  const Rig rig(stepped(), {.bytes = MiB, .max_bytes = 128 * MiB});
  const auto first = rig.heap.make_buffer<std::byte>(MiB);
  const auto second = rig.heap.make_buffer<std::byte>(4 * MiB);
  const std::string svg = picture_of(rig.arena);
  CHECK(has(svg, ">region 1 of 2: 1 MiB<"));
  CHECK(has(svg, ">region 2 of 2: "));
}
