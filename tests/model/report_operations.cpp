// What a heap reports: what the program holds, each with its borrows, and what streams still use. Buffers carry a
// number as the place where they were made, by which an entry finds its memory.

#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "program.hpp"

namespace model {
namespace {

constexpr const char* file = "model";
constexpr unsigned most_tags = 32000;  // a place has 15 bits for its line

unsigned tag_of(thole::SourceLocation place) {
  return std::string_view(place.file_name()) == file ? static_cast<unsigned>(place.line()) : 0;
}

struct Sums {
  std::size_t live = 0, borrows = 0, borrowed_mut = 0, dropped = 0;
  std::map<std::uint64_t, std::size_t> streams;
};

void check_streams(const thole::Report& report) {
  std::map<std::uint64_t, std::pair<std::size_t, std::size_t>> sums;
  for (const auto& block : report.blocks) {
    ++sums[block.stream_id].first;
    sums[block.stream_id].second += block.bytes;
  }
  for (const auto& stream : report.streams)
    if (sums[stream.stream_id] != std::pair(stream.blocks, stream.bytes)) broken("a report's streams are wrong sums");
  if (sums.size() != report.streams.size()) broken("a report misses a stream, or has one too many");
  if (!std::ranges::is_sorted(report.streams, std::greater{}, &thole::InFlightStream::bytes))
    broken("a report's streams are not sorted");
  const bool says_none = report.text().find("nothing in flight") != std::string::npos;
  if (says_none != report.streams.empty()) broken("a report's text does not say what it has");
}

}  // namespace

unsigned Program::next_tag() { return tags_ < most_tags ? ++tags_ : 0; }

thole::SourceLocation Program::location(unsigned tag) {
  return tag != 0 ? thole::SourceLocation(file, tag) : thole::SourceLocation();
}

void Program::report() {
  Heap* const heap = pick(heaps_);
  if (heap == nullptr) return;
  say("report");
  std::map<unsigned, std::vector<MemoryPtr>> known;
  for (const MemoryPtr& memory : ledger_.pinned())
    if (memory->heap == heap->number && memory->tag != 0) known[memory->tag].push_back(memory);
  std::map<unsigned, bool> all_idle;
  for (const auto& [tag, memories] : known)
    all_idle[tag] = std::ranges::all_of(memories, [](const MemoryPtr& each) {
      // What a part had in flight that is gone is perhaps not known to be done.
      return each->surely_idle() && each->whole == nullptr && each->parts.empty();
    });
  const thole::Report report = heap->heap.report();
  ledger_.refresh();
  check_streams(report);
  std::map<unsigned, Sums> told;
  for (const auto& buffer : report.live) {
    Sums& sums = told[tag_of(buffer.made_at)];
    ++sums.live;
    sums.borrows += buffer.borrows;
    sums.borrowed_mut += buffer.borrowed_mut ? 1 : 0;
    sums.dropped += buffer.dropped ? 1 : 0;
  }
  for (const auto& block : report.blocks) ++told[tag_of(block.made_at)].streams[block.stream_id];
  told.erase(0);
  for (const auto& [tag, memories] : known) {
    Sums least;
    std::size_t most = 0;
    std::size_t uncertain = 0;  // that are being let go of, perhaps by another thread
    for (const MemoryPtr& memory : memories) {
      const bool held = ledger_.held(*memory);
      const bool may_be_held = held || memory->perhaps_in_graph() || memory->let_go_later;
      least.live += held ? 1 : 0;
      most += may_be_held ? 1 : 0;
      uncertain += memory->let_go_later || (may_be_held && !held) ? 1 : 0;
      least.borrows += memory->readers;
      least.borrowed_mut += memory->writer ? 1 : 0;
      least.dropped += held && !memory->handle && !memory->let_go_later ? 1 : 0;
      std::set<std::uint64_t> streams;
      for (const Use& use : memory->uses)
        if (use.tracked && ledger_.open(use)) streams.insert(use.stream);
      // What a part that is dropped has in flight is its whole's from then on, however many parts there were.
      const bool is_part = memory->whole != nullptr || !memory->parts.empty();
      for (const auto stream : streams) least.streams[stream] = is_part ? 1 : least.streams[stream] + 1;
    }
    const Sums& sums = told[tag];
    // Of one allocation's parts some may be gone for the program, and not yet for a graph.
    if (sums.live < least.live || (sums.live > most && !ledger_.may_linger(tag)))
      broken(fmt::format("a report has {} live buffers of place {}, should have {} to {}", sums.live, tag, least.live,
                         most));
    if (sums.borrows != least.borrows || sums.borrowed_mut != least.borrowed_mut)
      broken(fmt::format("a report has {} and {} borrows of place {}, should have {} and {}", sums.borrows,
                         sums.borrowed_mut, tag, least.borrows, least.borrowed_mut));
    if (sums.dropped < least.dropped || (sums.dropped - least.dropped > uncertain && !ledger_.may_linger(tag)))
      broken(
          fmt::format("a report has {} dropped buffers of place {}, should have {}", sums.dropped, tag, least.dropped));
    for (const auto& [stream, count] : least.streams) {
      const auto found = sums.streams.find(stream);
      const std::size_t blocks = found == sums.streams.end() ? 0 : found->second;
      if (blocks < count)
        broken(fmt::format("a report has {} blocks of place {} in flight in stream {}, should have {}", blocks, tag,
                           stream, count));
    }
    if (!sums.streams.empty() && all_idle[tag]) broken("a report has a buffer in flight that nothing uses");
  }
  for (const auto& [tag, sums] : told)
    if (sums.live != 0 && !known.contains(tag) && !ledger_.may_linger(tag))
      broken(fmt::format("a report has a buffer of place {} that is gone", tag));
  ledger_.look();
}

}  // namespace model
