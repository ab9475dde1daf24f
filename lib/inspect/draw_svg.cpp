#include "inspect/draw_svg.hpp"

#include <algorithm>
#include <array>
#include <ostream>

#include "streams/uses.hpp"

namespace thole::detail {
namespace {

enum class State { free, kept_by_mimalloc, cached, in_use, in_use_by_both, in_flight, count };

struct Style {
  const char* color;
  const char* name;
};

constexpr std::array<Style, static_cast<std::size_t>(State::count)> styles{{
    {"#eeeeee", "free"},
    {"#d5dfe8", "free, mimalloc's"},
    {"#9ecae1", "free, in a thread's cache"},
    {"#31a354", "in use"},
    {"#fdae6b", "in use, and by the device"},
    {"#de2d26", "dropped, in flight"},
}};

State state_of(const StoreSpan& span) {
  if (span.kind == StoreSpan::Kind::mimalloc_free) return State::kept_by_mimalloc;
  if (span.kind != StoreSpan::Kind::block || span.block == nullptr) return State::free;
  const bool open = any_open(span.block->uses, Against::everything);
  if (span.block->holders.unreferenced()) return open ? State::in_flight : State::cached;
  return open ? State::in_use_by_both : State::in_use;
}

constexpr double width = 1024;
constexpr double row_height = 16;
constexpr double row_gap = 2;
constexpr double top = 40;

/// Draws [from, to) of a region that begins at row `row`, over as many rows as it covers.
void draw_piece(std::ostream& out, double from, double to, double row_bytes, double row, const char* color,
                const StoreSpan& span, const char* name) {
  while (from < to) {
    const double in_row = std::min(to, (static_cast<double>(static_cast<long>(from / row_bytes)) + 1) * row_bytes);
    const double y = top + (row + static_cast<double>(static_cast<long>(from / row_bytes))) * (row_height + row_gap);
    const double x = (from - static_cast<double>(static_cast<long>(from / row_bytes)) * row_bytes) / row_bytes * width;
    out << "<rect x=\"" << x << "\" y=\"" << y << "\" width=\"" << std::max((in_row - from) / row_bytes * width, 0.3)
        << "\" height=\"" << row_height << "\" fill=\"" << color << "\"><title>" << span.bytes << " bytes at "
        << static_cast<const void*>(span.data) << ", " << name << "</title></rect>\n";
    from = in_row;
  }
}

}  // namespace

void draw_svg(const std::vector<StoreSpan>& spans, std::ostream& out) {
  double total = 0;
  std::size_t regions = 0;
  for (const StoreSpan& span : spans) {
    total += static_cast<double>(span.bytes);
    regions = std::max(regions, span.region + 1);
  }
  constexpr double rows_wanted = 64;
  const double row_bytes = std::max(total / rows_wanted, 4096.0);
  // Where each region begins, in rows.
  std::vector<double> region_bytes(regions, 0);
  for (const StoreSpan& span : spans) region_bytes[span.region] += static_cast<double>(span.bytes);
  std::vector<double> first_row(regions + 1, 0);
  for (std::size_t i = 0; i < regions; ++i) {
    const double rows = region_bytes[i] / row_bytes;
    const double whole = static_cast<double>(static_cast<long>(rows));
    first_row[i + 1] = first_row[i] + (rows > whole ? whole + 1 : whole) + 0.5;
  }
  const double height = top + (first_row[regions] + 1) * (row_height + row_gap);
  out << "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" << width << "\" height=\"" << height
      << "\" font-family=\"sans-serif\" font-size=\"12\">\n";
  std::array<double, styles.size()> bytes{};
  std::vector<double> at(regions, 0);
  for (const StoreSpan& span : spans) {
    const auto state = static_cast<std::size_t>(state_of(span));
    const auto size = static_cast<double>(span.bytes);
    bytes[state] += size;
    draw_piece(out, at[span.region], at[span.region] + size, row_bytes, first_row[span.region], styles[state].color,
               span, styles[state].name);
    at[span.region] += size;
  }
  constexpr std::size_t columns = 3;
  for (std::size_t i = 0; i < styles.size(); ++i) {
    const double x = static_cast<double>(i % columns) * width / columns;
    const double y = 4 + static_cast<double>(i / columns) * row_height;
    out << "<rect x=\"" << x << "\" y=\"" << y << "\" width=\"12\" height=\"12\" fill=\"" << styles[i].color
        << "\"/><text x=\"" << x + 16 << "\" y=\"" << y + 11 << "\">" << styles[i].name << ' '
        << static_cast<long>(bytes[i] / 1024) << " KiB</text>\n";
  }
  out << "</svg>\n";
}

}  // namespace thole::detail
