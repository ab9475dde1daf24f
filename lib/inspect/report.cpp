#include "inspect/report.hpp"

#include <algorithm>
#include <chrono>
#include <map>
#include <sstream>
#include <string>
#include <utility>

#include "heap/heap_core.hpp"
#include "streams/timeline.hpp"
#include "streams/uses.hpp"

namespace thole {
namespace detail {

Report make_report(HeapCore& heap) {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  Report report;
  for_each_used_block(heap, [&](const Block& block) {
    for_each_open(block.uses, Against::everything, [&](const OpenUse& open) {
      const std::chrono::nanoseconds since(block.used_since_ns.load(std::memory_order_relaxed));
      report.blocks.push_back({open.timeline->id(), block.capacity, std::max(now - since, std::chrono::nanoseconds(0)),
                               block.made_at.load(std::memory_order_relaxed), block.holders.dropped()});
      return true;
    });
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

}  // namespace

std::string Report::text() const {
  if (streams.empty()) return "nothing in flight\n";
  struct Place {
    std::size_t blocks = 0;
    std::size_t bytes = 0;
    std::size_t dropped = 0;
    std::chrono::nanoseconds oldest{0};
  };
  std::ostringstream out;
  for (const InFlightStream& stream : streams) {
    out << "stream " << stream.stream_id << ": " << stream.blocks << (stream.blocks == 1 ? " block, " : " blocks, ")
        << stream.bytes << " bytes, oldest " << seconds(stream.oldest) << '\n';
    std::map<std::pair<std::string, std::uint_least32_t>, Place> places;
    for (const InFlightBlock& block : blocks) {
      if (block.stream_id != stream.stream_id) continue;
      Place& place = places[{block.made_at.file_name(), block.made_at.line()}];
      ++place.blocks;
      place.bytes += block.bytes;
      place.dropped += block.dropped ? 1 : 0;
      place.oldest = std::max(place.oldest, block.age);
    }
    for (const auto& [where, place] : places)
      out << "  made at " << where.first << ':' << where.second << ": " << place.blocks
          << (place.blocks == 1 ? " block, " : " blocks, ") << place.bytes << " bytes, " << place.dropped
          << " dropped, oldest " << seconds(place.oldest) << '\n';
  }
  return out.str();
}

}  // namespace thole
