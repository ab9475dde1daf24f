#include "inspect/report.hpp"

#include <algorithm>
#include <chrono>
#include <map>
#include <sstream>
#include <string>
#include <utility>

#include "heap/heap_core.hpp"
#include "streams/part_blocks.hpp"
#include "streams/timeline.hpp"
#include "streams/uses.hpp"

namespace thole::inline v0_1 {
namespace detail {

namespace {

void add_live(const Block& block, Report& report) {
  const BorrowState& holders = block.holders;
  if (holders.unreferenced()) return;
  const bool exclusive = holders.has_writer();
  report.live.push_back({block.capacity, block.made_at.load(std::memory_order_relaxed),
                         exclusive ? 0 : static_cast<std::size_t>(holders.borrows()), exclusive, holders.dropped()});
}

}  // namespace

void add_in_flight(const Block& block, std::chrono::nanoseconds now, std::vector<InFlightBlock>& found) {
  for_each_open(block.uses, Against::everything, [&](const OpenUse& open) {
    found.push_back({open.timeline->id(), block.capacity,
                     std::max(now - used_since(block.uses), std::chrono::nanoseconds(0)),
                     block.made_at.load(std::memory_order_relaxed), block.holders.dropped()});
    return true;
  });
}

Report make_report(HeapCore& heap) {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  Report report;
  for_each_block(heap, [&](const Block& block) {
    add_in_flight(block, now, report.blocks);
    if (!has_parts(block)) add_live(block, report);  // else its parts are what lives, blocks of their own
  });
  std::map<std::uint64_t, InFlightStream> streams;
  for (const InFlightBlock& block : report.blocks) {
    InFlightStream& stream = streams[block.stream_id];
    stream.stream_id = block.stream_id;
    ++stream.blocks;
    stream.bytes += block.bytes;
    stream.oldest = std::max(stream.oldest, block.age);
  }
  for (const auto& entry : streams) report.streams.push_back(entry.second);
  std::ranges::sort(report.streams, std::greater{},
                    [](const InFlightStream& stream) { return std::pair(stream.bytes, stream.stream_id); });
  return report;
}

}  // namespace detail

namespace {

std::string seconds(std::chrono::nanoseconds age) {
  std::ostringstream out;
  out.setf(std::ios::fixed);
  out.precision(3);
  out << std::chrono::duration<double>(age).count() << " s";
  return out.str();
}

/// A count and what is counted.
std::string counted(std::size_t count, const char* what) {
  return std::to_string(count) + ' ' + what + (count == 1 ? "" : "s");
}

using Line = std::pair<std::string, std::uint_least32_t>;  // of a source
Line line_of(SourceLocation where) { return {where.file_name(), where.line()}; }

void write_in_flight(std::ostream& out, const Report& report) {
  struct Place {
    std::size_t blocks = 0;
    std::size_t bytes = 0;
    std::size_t dropped = 0;
    std::chrono::nanoseconds oldest{0};
  };
  if (report.streams.empty()) out << "nothing in flight\n";
  for (const InFlightStream& stream : report.streams) {
    out << "stream " << stream.stream_id << ": " << counted(stream.blocks, "block") << ", " << stream.bytes
        << " bytes, oldest " << seconds(stream.oldest) << '\n';
    std::map<Line, Place> places;
    for (const InFlightBlock& block : report.blocks) {
      if (block.stream_id != stream.stream_id) continue;
      Place& place = places[line_of(block.made_at)];
      ++place.blocks;
      place.bytes += block.bytes;
      place.dropped += block.dropped ? 1 : 0;
      place.oldest = std::max(place.oldest, block.age);
    }
    for (const auto& [where, place] : places)
      out << "  made at " << where.first << ':' << where.second << ": " << counted(place.blocks, "block") << ", "
          << place.bytes << " bytes, " << place.dropped << " dropped, oldest " << seconds(place.oldest) << '\n';
  }
}

void write_live(std::ostream& out, const Report& report) {
  struct Place {
    std::size_t buffers = 0;
    std::size_t bytes = 0;
    std::size_t borrows = 0;
    std::size_t borrowed_mut = 0;
    std::size_t dropped = 0;
  };
  if (report.live.empty()) return;
  std::map<Line, Place> places;
  std::size_t bytes = 0;
  for (const LiveBuffer& buffer : report.live) {
    Place& place = places[line_of(buffer.made_at)];
    ++place.buffers;
    place.bytes += buffer.bytes;
    place.borrows += buffer.borrows;
    place.borrowed_mut += buffer.borrowed_mut ? 1 : 0;
    place.dropped += buffer.dropped ? 1 : 0;
    bytes += buffer.bytes;
  }
  out << "held by the program: " << counted(report.live.size(), "buffer") << ", " << bytes << " bytes\n";
  for (const auto& [where, place] : places) {
    out << "  made at " << where.first << ':' << where.second << ": " << counted(place.buffers, "buffer") << ", "
        << place.bytes << " bytes";
    if (place.borrows != 0) out << ", " << counted(place.borrows, "Borrow");
    if (place.borrowed_mut != 0) out << ", " << counted(place.borrowed_mut, "BorrowMut");
    if (place.dropped != 0) out << ", " << place.dropped << " dropped";
    out << '\n';
  }
}

}  // namespace

std::string Report::text() const {
  std::ostringstream out;
  write_in_flight(out, *this);
  write_live(out, *this);
  return out.str();
}

}  // namespace thole::inline v0_1
