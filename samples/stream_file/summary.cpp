#include "summary.hpp"

#include <fmt/core.h>

#include <array>
#include <iterator>
#include <nlohmann/json.hpp>

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

std::string speed(const Pass& pass) {
  if (pass.bytes == 0) return "-";
  const double value = pass.gigabytes_per_second();
  return value < 0.1 ? fmt::format("{:.1g}", value) : fmt::format("{:.2f}", value);
}

double ratio(const Pass& ours, const Pass& other) {
  return other.gigabytes_per_second() > 0 ? ours.gigabytes_per_second() / other.gigabytes_per_second() : 0;
}

}  // namespace

std::string human_bytes(double value) {
  constexpr std::array units{"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  std::size_t unit = 0;
  for (; value >= 1024 && unit + 1 < units.size(); ++unit) value /= 1024;
  return fmt::format("{:.4g} {}", value, units[unit]);
}

std::string as_table(const Summary& s) {
  std::string text =
      fmt::format("{}: all of it came back as it was read, and the device's histogram is the CPU's\n\n", s.path);
  const auto row = [&text](const char* name, const std::string& value) {
    text += fmt::format("  {:<20}{}\n", name, value);
  };
  row("device", s.device == s.backend ? s.device : fmt::format("{} ({})", s.device, s.backend));
  row("bytes", fmt::format("{}, in {} of {}, {} at a time", grouped(s.pass.bytes), counted(s.pass.chunks, "chunk"),
                           human_bytes(static_cast<double>(s.shape.chunk)), s.shape.window));
  row("xxh128", s.pass.checksum_back);
  row("histogram", s.histogram);
  row("GB/s", speed(s.pass));
  row("copies", grouped(s.pass.copies));
  row("arena", fmt::format("{}, pinned once in {:.1f} ms", human_bytes(static_cast<double>(s.pinned_bytes)),
                           s.pinning_seconds * 1e3));
  row("peak pinned bytes", fmt::format("{} in buffers", grouped(s.heap.peak)));
  row("buffers made", grouped(s.heap.buffers_made));
  row("frees deferred", grouped(s.heap.deferred));
  row("most in flight", counted(s.heap.most_in_flight, "dropped buffer"));

  text += '\n';
  if (s.ways.empty()) {
    text += fmt::format("  not compared with the naive way: {}\n", s.no_comparison);
    return text;
  }
  const Pass& ours = s.ways.front().pass;
  text += fmt::format(
      "  {:<44}{:>6}   thole is\n",
      fmt::format("the same job, {}", ours.bytes == s.pass.bytes
                                          ? "all bytes"
                                          : fmt::format("the first {}", human_bytes(static_cast<double>(ours.bytes)))),
      "GB/s");
  for (const auto& [name, pass] : s.ways)
    text += fmt::format("  {:<44}{:>6}{}\n", name, speed(pass),
                        &pass == &ours ? "" : fmt::format("   {:.2f} x as fast", ratio(ours, pass)));
  return text;
}

std::string as_json(const Summary& s) {
  nlohmann::ordered_json json = {
      {"file", s.path},
      {"device", s.device},
      {"backend", s.backend},
      {"bytes", s.pass.bytes},
      {"chunks", s.pass.chunks},
      {"chunk_bytes", s.shape.chunk},
      {"window", s.shape.window},
      {"xxh128", s.pass.checksum_back},
      {"histogram_by", s.histogram},
      {"seconds", s.pass.seconds},
      {"gigabytes_per_second", s.pass.gigabytes_per_second()},
      {"copies", s.pass.copies},
      {"arena_bytes", s.pinned_bytes},
      {"pinning_seconds", s.pinning_seconds},
      {"peak_pinned_bytes", s.heap.peak},
      {"buffers_made", s.heap.buffers_made},
      {"frees_deferred", s.heap.deferred},
      {"most_in_flight", s.heap.most_in_flight},
      {"comparison", nlohmann::ordered_json::array()},
  };
  if (s.ways.empty()) json["not_compared"] = s.no_comparison;
  for (const auto& [name, pass] : s.ways)
    json["comparison"].push_back({{"way", name},
                                  {"bytes", pass.bytes},
                                  {"gigabytes_per_second", pass.gigabytes_per_second()},
                                  {"thole_is_times_as_fast", ratio(s.ways.front().pass, pass)}});
  // A file's name may be no UTF-8; the rest of the report is worth more than its exact bytes.
  return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + '\n';
}

}  // namespace stream_file
