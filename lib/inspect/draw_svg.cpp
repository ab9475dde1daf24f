#include "inspect/draw_svg.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cstdint>
#include <locale>
#include <ostream>
#include <sstream>
#include <string_view>

#include "base/bytes.hpp"
#include "inspect/report.hpp"
#include "streams/part_blocks.hpp"
#include "streams/uses.hpp"

namespace thole::inline v0_1::detail {
namespace {

enum class State { in_use, in_use_by_both, in_flight, cached, kept_by_mimalloc, free, count };

struct Style {
  const char* color;
  const char* name;
};

constexpr std::array<Style, static_cast<std::size_t>(State::count)> styles{{
    {"#31a354", "in use"},
    {"#fdae6b", "in use, and by the device"},
    {"#de2d26", "dropped, in flight"},
    {"#9ecae1", "free, kept by a thread"},
    {"#d5dfe8", "free, mimalloc's"},
    {"#eeeeee", "free"},
}};

State state_of(const StoreSpan& span) {
  if (span.kind == StoreSpan::Kind::mimalloc_free) return State::kept_by_mimalloc;
  if (span.kind != StoreSpan::Kind::block || span.block == nullptr) return State::free;
  const bool open = any_open(span.block->uses, Against::everything);
  if (span.block->holders.unreferenced() && !has_parts(*span.block)) return open ? State::in_flight : State::cached;
  return open ? State::in_use_by_both : State::in_use;
}

// Sizes in pixels.
constexpr std::size_t left = 130, map_width = 1024, right = 30, row_height = 14, row_gap = 2, line = 18;
constexpr std::size_t page_width = left + map_width + right;
constexpr std::size_t columns = 3;  // of the legend
constexpr std::size_t rows_wanted = 64;

/// Numbers as they are written in SVG, whatever the program's locale.
class Picture {
 public:
  Picture() {
    out_.imbue(std::locale::classic());
    out_.setf(std::ios::fixed);
    out_.precision(2);
  }
  std::string take() { return std::move(out_).str(); }
  std::ostream& out() noexcept { return out_; }

  /// Text that may have any characters.
  void escaped(std::string_view text) {
    for (const char c : text) {
      if (c == '&')
        out_ << "&amp;";
      else if (c == '<')
        out_ << "&lt;";
      else if (c == '>')
        out_ << "&gt;";
      else if (c == '"')
        out_ << "&quot;";
      else if (static_cast<unsigned char>(c) < ' ' && c != '\n' && c != '\t')
        out_ << '?';  // XML has no such character
      else
        out_ << c;
    }
  }
  void text(std::size_t x, std::size_t y, std::string_view text, const char* more = "") {
    out_ << "<text x=\"" << x << "\" y=\"" << y << '"' << more << '>';
    escaped(text);
    out_ << "</text>\n";
  }

 private:
  std::ostringstream out_;
};

/// "1.5 MiB": for people, where bytes_text() is for errors.
std::string short_text(std::size_t bytes) {
  static constexpr std::array units{"bytes", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  std::size_t unit = 0;
  for (; value >= 1024 && unit + 1 != units.size(); ++unit) value /= 1024;
  std::ostringstream text;
  text.imbue(std::locale::classic());
  text.precision(value < 100 ? 3 : 4);
  text << value << ' ' << units[unit];
  return text.str();
}

std::string address_text(const std::byte* address) {
  std::ostringstream text;
  text.imbue(std::locale::classic());
  text << "0x" << std::hex << reinterpret_cast<std::uintptr_t>(address);
  return text.str();
}

/// What is shown where the mouse is.
std::string details(const StoreSpan& span, State state, std::chrono::nanoseconds now) {
  std::ostringstream text;
  text.imbue(std::locale::classic());
  text.setf(std::ios::fixed);
  text.precision(3);
  text << bytes_text(span.bytes) << " at " << address_text(span.data) << ", "
       << styles[static_cast<std::size_t>(state)].name;
  if (span.block == nullptr || state == State::cached) return text.str();
  std::vector<InFlightBlock> uses;
  add_in_flight(*span.block, now, uses);
  for (const InFlightBlock& use : uses)
    text << "\nused by stream " << use.stream_id << " for " << std::chrono::duration<double>(use.age).count() << " s";
  const auto made_at = span.block->made_at.load(std::memory_order_relaxed);
  if (made_at.line() != 0) text << "\nmade at " << made_at.file_name() << ':' << made_at.line();
  return text.str();
}

/// Where the rows of one region lie.
struct RegionRows {
  const std::byte* data = nullptr;
  std::size_t bytes = 0;
  std::size_t top = 0;
};

class Map {
 public:
  explicit Map(const std::vector<StoreSpan>& spans, std::size_t top) {
    std::size_t total = 0;
    for (const StoreSpan& span : spans) {
      regions_.resize(std::max(regions_.size(), span.region + 1));
      RegionRows& region = regions_[span.region];
      if (region.data == nullptr) region.data = span.data;
      region.bytes += span.bytes;
      total += span.bytes;
    }
    row_bytes_ = std::bit_ceil(std::max(total / rows_wanted, page));
    for (RegionRows& region : regions_) {
      region.top = top + line;
      top = region.top + rows(region) * (row_height + row_gap) + line / 2;
    }
    bottom_ = top;
  }

  std::size_t row_bytes() const noexcept { return row_bytes_; }
  std::size_t bottom() const noexcept { return bottom_; }

  /// Each region's line, and the addresses of its rows.
  void draw_margins(Picture& picture) const {
    for (std::size_t i = 0; i != regions_.size(); ++i) {
      const RegionRows& region = regions_[i];
      picture.text(left, region.top - 4,
                   "region " + std::to_string(i + 1) + " of " + std::to_string(regions_.size()) + ": " +
                       short_text(region.bytes));
      for (std::size_t row = 0; row != rows(region); ++row)
        picture.text(left - 8, region.top + row * (row_height + row_gap) + row_height - 3,
                     address_text(region.data + row * row_bytes_),
                     " text-anchor=\"end\" font-family=\"monospace\" font-size=\"10\"");
    }
  }

  /// A span, over as many rows as it covers.
  void draw(Picture& picture, const StoreSpan& span, State state, std::chrono::nanoseconds now) const {
    const RegionRows& region = regions_[span.region];
    picture.out() << "<g fill=\"" << styles[static_cast<std::size_t>(state)].color << "\"><title>";
    picture.escaped(details(span, state, now));
    picture.out() << "</title>";
    const auto from = static_cast<std::size_t>(span.data - region.data);
    for (std::size_t at = from; at < from + span.bytes;) {
      const std::size_t row = at / row_bytes_;
      const std::size_t end = std::min(from + span.bytes, (row + 1) * row_bytes_);
      picture.out() << "<rect x=\"" << static_cast<double>(left) + pixels(at - row * row_bytes_) << "\" y=\""
                    << region.top + row * (row_height + row_gap) << "\" width=\"" << std::max(pixels(end - at), 0.3)
                    << "\" height=\"" << row_height << "\"/>";
      at = end;
    }
    picture.out() << "</g>\n";
  }

 private:
  std::size_t rows(const RegionRows& region) const noexcept { return (region.bytes + row_bytes_ - 1) / row_bytes_; }
  double pixels(std::size_t bytes) const noexcept {
    return static_cast<double>(bytes) / static_cast<double>(row_bytes_) * static_cast<double>(map_width);
  }

  std::vector<RegionRows> regions_;
  std::size_t row_bytes_ = page;
  std::size_t bottom_ = 0;
};

/// What a row is, with a mark at each quarter of it.
void draw_scale(Picture& picture, std::size_t y, std::size_t row_bytes) {
  picture.out() << "<path stroke=\"#888888\" fill=\"none\" d=\"M" << left << ' ' << y << "h" << map_width;
  for (std::size_t i = 0; i <= 4; ++i) picture.out() << 'M' << left + i * map_width / 4 << ' ' << y - 3 << "v6";
  picture.out() << "\"/>\n";
  for (std::size_t i = 0; i <= 4; ++i)
    picture.text(left + i * map_width / 4, y - 6, i == 0 ? "0" : short_text(row_bytes / 4 * i),
                 " text-anchor=\"middle\" font-size=\"10\"");
  picture.text(left - 8, y + 4, "address", " text-anchor=\"end\" font-size=\"10\"");
}

/// The states with their shares, the largest first.
void draw_legend(Picture& picture, std::size_t y, const std::array<std::size_t, styles.size()>& bytes) {
  std::array<std::size_t, styles.size()> order{};
  std::size_t total = 0;
  for (std::size_t i = 0; i != order.size(); ++i) {
    order[i] = i;
    total += bytes[i];
  }
  std::ranges::sort(
      order, [&bytes](std::size_t a, std::size_t b) { return bytes[a] != bytes[b] ? bytes[a] > bytes[b] : a < b; });
  for (std::size_t place = 0; place != order.size(); ++place) {
    const std::size_t state = order[place];
    const std::size_t x = left + place % columns * map_width / columns, top = y + place / columns * line;
    picture.out() << "<rect x=\"" << x << "\" y=\"" << top << "\" width=\"12\" height=\"12\" fill=\""
                  << styles[state].color << "\"/>\n";
    std::ostringstream share;
    share.imbue(std::locale::classic());
    share.setf(std::ios::fixed);
    share.precision(1);
    share << (total == 0 ? 0.0 : 100.0 * static_cast<double>(bytes[state]) / static_cast<double>(total));
    picture.text(x + 18, top + 10,
                 std::string(styles[state].name) + ": " + share.str() + " %, " + short_text(bytes[state]));
  }
}

}  // namespace

void draw_svg(const std::vector<StoreSpan>& spans, const PictureText& text, std::ostream& out) {
  constexpr std::size_t title_y = 34, totals_y = 56, legend_y = 72, scale_y = legend_y + 2 * line + 28;
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  const Map map(spans, scale_y + 6);
  Picture picture;
  const std::size_t height = map.bottom() + 20;
  picture.out() << "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" << page_width << "\" height=\"" << height
                << "\" viewBox=\"0 0 " << page_width << ' ' << height
                << "\" font-family=\"sans-serif\" font-size=\"12\">\n<title>";
  picture.escaped(text.title);
  picture.out() << "</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n";
  picture.text(left, title_y, text.title, " font-size=\"20\" font-weight=\"bold\"");
  picture.text(left, totals_y, text.totals);
  draw_scale(picture, scale_y, map.row_bytes());
  map.draw_margins(picture);
  std::array<std::size_t, styles.size()> bytes{};
  for (const StoreSpan& span : spans) {
    const State state = state_of(span);
    bytes[static_cast<std::size_t>(state)] += span.bytes;
    map.draw(picture, span, state, now);
  }
  draw_legend(picture, legend_y, bytes);
  picture.out() << "</svg>\n";
  out << picture.take();
}

}  // namespace thole::inline v0_1::detail
