#include "summary.hpp"

#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "peers.hpp"

namespace stream_file {
namespace {

/// 1,234,567
std::string grouped(std::uint64_t number) {
  std::string text = fmt::format("{}", number);
  for (auto at = static_cast<std::ptrdiff_t>(text.size()) - 3; at > 0; at -= 3)
    text.insert(static_cast<std::size_t>(at), 1, ',');
  return text;
}

std::string counted(std::uint64_t number, const char* what) {
  return fmt::format("{} {}{}", grouped(number), what, number == 1 ? "" : "s");
}

std::string speed(double value) {
  if (value == 0) return "-";
  return value < 0.1 ? fmt::format("{:.1g}", value) : fmt::format("{:.2f}", value);
}

const char* name_of(Check check) { return check == Check::none ? "none" : check == Check::sum ? "sum" : "full"; }

std::string first_line(const Summary& s) {
  const std::string what = s.files.size() == 1
                               ? s.files.front()
                               : fmt::format("{} and {}", s.files.front(), counted(s.files.size() - 1, "more file"));
  const bool checked = s.plan.check != Check::none;
  if (s.plan.mode == Mode::round_trip)
    return what + (!checked ? ": all of it went to the device and came back, unchecked"
                            : ": all of it came back from the device as it was read");
  return what +
         (!checked ? ": all of it went into the device, unchecked" : ": all of it is in the device as it was read");
}

std::string comparison(const Summary& s) {
  if (s.ways.empty()) return fmt::format("  not compared with other ways: {}\n", s.no_comparison);
  const std::uint64_t bytes = s.ways.front().bytes;
  std::string text = fmt::format(
      "  {:<44}{:>8}  {:>11}\n",
      fmt::format(
          "the same bytes, warm{}",
          bytes == s.result.bytes ? "" : fmt::format(": the first {}", human_bytes(static_cast<double>(bytes)))),
      "GB/s", "of the link");
  for (const auto& way : s.ways)
    text += fmt::format("  {:<44}{:>8}  {:>11}\n", way.name, speed(way.gigabytes_per_second()),
                        s.link() > 0 ? fmt::format("{:.2f}", way.gigabytes_per_second() / s.link()) : "");
  return text;
}

}  // namespace

double Summary::link() const {
  for (const auto& way : ways)
    if (way.key == link_key) return way.gigabytes_per_second();
  return 0;
}

std::string as_table(const Summary& s) {
  std::string text = first_line(s) + "\n\n";
  const auto row = [&text](const char* name, const std::string& value) {
    text += fmt::format("  {:<20}{}\n", name, value);
  };
  row("device", s.device == s.backend ? s.device : fmt::format("{} ({})", s.device, s.backend));
  row("bytes", fmt::format("{}, in {} of {}", grouped(s.result.bytes), counted(s.result.pieces, "piece"),
                           human_bytes(static_cast<double>(s.plan.chunk))));
  row("GB/s", fmt::format("{}, by {}, {} on their way at most", speed(s.result.gigabytes_per_second()),
                          counted(s.plan.threads, "thread"), counted(s.plan.window, "piece")));
  if (s.plan.check != Check::none)
    row("sum", fmt::format("{} by the CPU; the device's by {}", as_text(s.result.on_cpu.sum), s.checked_by));
  if (s.plan.check == Check::full) row("histograms", "the same on both sides");
  if (s.plan.check == Check::full && s.plan.mode == Mode::round_trip)
    row("xxh128 of pieces", as_text(s.result.back.hashes));
  row("pinned bytes", fmt::format("{}; the most in buffers {}", grouped(s.pinned_bytes), grouped(s.heap.peak)));
  row("device memory", fmt::format("{}, {}", human_bytes(static_cast<double>(s.device_bytes)),
                                   s.device_holds_all ? "all of it at once" : "a ring that it streams through"));
  row("made ready in", fmt::format("{:.1f} ms (pinned and device memory)", s.preparing_seconds * 1e3));
  row("buffers", fmt::format("{} made, {} dropped in flight, {} of them at one time", grouped(s.heap.buffers_made),
                             grouped(s.heap.deferred), grouped(s.heap.most_in_flight)));
  for (const auto& note : s.notes) row("note", note);
  return text + '\n' + comparison(s);
}

std::string as_json(const Summary& s) {
  nlohmann::ordered_json json = {
      {"files", s.files},
      {"mode", s.plan.mode == Mode::load ? "load" : "round_trip"},
      {"check", name_of(s.plan.check)},
      {"device", s.device},
      {"backend", s.backend},
      {"bytes", s.result.bytes},
      {"pieces", s.result.pieces},
      {"chunk_bytes", s.plan.chunk},
      {"threads", s.plan.threads},
      {"window", s.plan.window},
      {"sum", as_text(s.result.on_cpu.sum)},
      {"sum_by_device", as_text(s.result.on_device.sum)},
      {"xxh128_of_pieces", as_text(s.result.back.hashes)},
      {"checked_by", s.checked_by},
      {"seconds", s.result.seconds},
      {"gigabytes_per_second", s.result.gigabytes_per_second()},
      {"copies", s.result.copies},
      {"pinned_bytes", s.pinned_bytes},
      {"peak_pinned_bytes", s.heap.peak},
      {"device_memory_bytes", s.device_bytes},
      {"device_holds_all", s.device_holds_all},
      {"preparing_seconds", s.preparing_seconds},
      {"buffers_made", s.heap.buffers_made},
      {"dropped_in_flight", s.heap.deferred},
      {"most_in_flight", s.heap.most_in_flight},
      {"notes", s.notes},
      {"comparison", nlohmann::ordered_json::array()},
  };
  if (s.ways.empty()) json["not_compared"] = s.no_comparison;
  for (const auto& way : s.ways)
    json["comparison"].push_back({{"way", way.key},
                                  {"name", way.name},
                                  {"bytes", way.bytes},
                                  {"gigabytes_per_second", way.gigabytes_per_second()},
                                  {"of_the_link", s.link() > 0 ? way.gigabytes_per_second() / s.link() : 0}});
  // A file's name may be no UTF-8; the rest of the report is worth more than its exact bytes.
  return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + '\n';
}

}  // namespace stream_file
