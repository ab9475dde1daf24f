#include "plot.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

namespace stream_file {
namespace {

constexpr double width = 960, left = 70, right = 30;
constexpr double plot_width = width - left - right;

/// A row of the picture: its place, and what its top stands for.
struct Panel {
  double top, height, most;
  double y(double value) const { return top + height - std::min(value / most, 1.0) * height; }
};

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '<')
      out += "&lt;";
    else if (c == '&')
      out += "&amp;";
    else if (static_cast<unsigned char>(c) < 32 || static_cast<unsigned char>(c) == 127)
      out += '?';
    else
      out += c;
  }
  return out;
}

std::string text_at(double x, double y, const std::string& text, const char* more = "") {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" {}>{}</text>\n", x, y, more, escaped(text));
}

std::string line(double x1, double y1, double x2, double y2, const char* style) {
  return fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" class=\"{}\"/>\n", x1, y1, x2, y2,
                     style);
}

/// 1, 2 or 5 times a power of ten, such that a handful fill `most`.
double step_for(double most) {
  const double rough = most / 4, power = std::pow(10, std::floor(std::log10(rough)));
  for (const double times : {1.0, 2.0, 5.0})
    if (rough <= times * power) return times * power;
  return 10 * power;
}

/// Bytes that arrived in the device in each of `bins` equal parts of the time.
std::vector<double> arrivals(const Log& log, double seconds, std::size_t bins) {
  std::vector<double> bytes(bins, 0.0);
  const double bin = seconds / static_cast<double>(bins);
  for (std::size_t lane = 0; lane < log.lanes(); ++lane) {
    double stream_free = 0;
    for (const Span& span : log.spans(lane)) {
      if (span.doing != Doing::to_device) continue;
      const double begin = std::min(std::max(span.begin, stream_free), span.end);
      const double length = std::max(span.end - begin, 1e-9);
      stream_free = span.end;
      for (auto at = static_cast<std::size_t>(begin / bin); at < bins; ++at) {
        const double from = std::max(begin, static_cast<double>(at) * bin);
        const double to = std::min(begin + length, static_cast<double>(at + 1) * bin);
        if (to <= from) break;
        bytes[at] += static_cast<double>(span.bytes) * (to - from) / length;
      }
    }
  }
  return bytes;
}

/// When the number of buffers in use changed, and by how much; in order. A buffer is given back when the copy from it
/// is done, or when what came back in it has been looked at.
std::vector<std::pair<double, int>> changes(const Log& log) {
  std::vector<std::pair<double, int>> all;
  for (std::size_t lane = 0; lane < log.lanes(); ++lane) {
    for (const double at : log.taken(lane)) all.emplace_back(at, 1);
    for (const Span& span : log.spans(lane))
      if (span.doing == Doing::to_device || span.doing == Doing::check) all.emplace_back(span.end, -1);
  }
  std::sort(all.begin(), all.end());
  return all;
}

std::string axes(const Panel& panel, const std::string& title, double step, const char* unit) {
  std::string out = text_at(left, panel.top - 12, title, "class=\"title\"");
  for (double value = 0; value <= panel.most * 1.0001; value += step) {
    out += line(left, panel.y(value), left + plot_width, panel.y(value), "grid");
    out += text_at(left - 8, panel.y(value) + 4, fmt::format("{:g}{}", value, unit), "text-anchor=\"end\"");
  }
  return out;
}

std::string time_axis(double y, double seconds) {
  const bool short_one = seconds < 2;
  const double all = short_one ? seconds * 1e3 : seconds;
  std::string out;
  const double step = step_for(all * 0.6);
  for (double at = 0; at <= all * 1.0001; at += step)
    out += text_at(left + at / all * plot_width, y, fmt::format("{:g}{}", at, short_one ? " ms" : " s"),
                   "text-anchor=\"middle\"");
  return out;
}

std::string level(const Panel& panel, double value, const std::string& label) {
  return line(left, panel.y(value), left + plot_width, panel.y(value), "level") +
         text_at(left + plot_width - 4, panel.y(value) - 5, label, "text-anchor=\"end\" class=\"level-text\"");
}

std::string speeds(const Log& log, const Summary& s) {
  const double seconds = s.result.seconds;
  const auto bins = std::clamp<std::size_t>(static_cast<std::size_t>(s.result.pieces / 12), 8, 120);
  const auto bytes = arrivals(log, seconds, bins);
  const double bin = seconds / static_cast<double>(bins);
  double most = std::max(s.link(), s.result.gigabytes_per_second());
  for (const double count : bytes) most = std::max(most, count / bin / 1e9);
  const Panel panel{90, 190, most * 1.15};

  std::string out = axes(panel, "GB that arrived in the device each second", step_for(panel.most), "");
  out += fmt::format("<polygon class=\"speed\" points=\"{:.1f},{:.1f}", left, panel.y(0));
  for (std::size_t at = 0; at < bins; ++at)
    for (const std::size_t edge : {at, at + 1})
      out += fmt::format(" {:.1f},{:.1f}", left + plot_width * static_cast<double>(edge) / static_cast<double>(bins),
                         panel.y(bytes[at] / bin / 1e9));
  out += fmt::format(" {:.1f},{:.1f}\"/>\n", left + plot_width, panel.y(0));
  if (s.link() > 0) out += level(panel, s.link(), fmt::format("what the link can do: {:.1f} GB/s", s.link()));
  return out;
}

std::string buffers(const Log& log, const Summary& s) {
  const double seconds = s.result.seconds;
  const auto window = static_cast<double>(s.plan.window * s.plan.places);
  const Panel panel{350, 110, window * 1.25};
  std::string out = axes(panel, "Pinned buffers in use: being filled by a reader, or on their way",
                         std::max(1.0, step_for(panel.most)), "");
  out += fmt::format("<polygon class=\"buffers\" points=\"{:.1f},{:.1f}", left, panel.y(0));
  int now = 0;
  double last_x = left;
  double low = 0, high = 0;  // of what happened within one dot of the picture
  for (const auto& [at, change] : changes(log)) {
    const double x = left + std::clamp(at / seconds, 0.0, 1.0) * plot_width;
    if (x - last_x >= 0.5) {
      out += fmt::format(" {:.1f},{:.1f} {:.1f},{:.1f} {:.1f},{:.1f}", last_x, panel.y(low), last_x, panel.y(high), x,
                         panel.y(std::min<double>(now, window)));
      last_x = x;
      low = high = std::min<double>(now, window);
    }
    now += change;
    low = std::min<double>(low, now);
    high =
        std::clamp<double>(now, high, window);  // the word that a copy is done may come when its buffer is in use again
  }
  out += fmt::format(" {:.1f},{:.1f}\"/>\n", left + plot_width, panel.y(0));
  out += level(panel, window,
               fmt::format("all there are: {:g} of {}", window, human_bytes(static_cast<double>(s.plan.chunk))));
  return out;
}

}  // namespace

std::string as_svg(const Log& log, const Summary& s) {
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} 520\" width=\"{0}\" height=\"520\" "
      "font-family=\"sans-serif\" font-size=\"12\">\n"
      "<style>.title{{font-size:14px;font-weight:bold}}.grid{{stroke:#ddd}}.speed{{fill:#4c8bf5;fill-opacity:.75}}"
      ".buffers{{fill:#e8973a;fill-opacity:.75}}.level{{stroke:#333;stroke-dasharray:6 "
      "4}}.level-text{{fill:#333}}</style>\n"
      "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
      width);
  const std::string what = s.files.size() == 1 ? s.files.front() : fmt::format("{} files", s.files.size());
  out += text_at(left, 28,
                 fmt::format("{} {} {}", what, s.plan.mode == Mode::load ? "into" : "there and back:",
                             s.backend == "simulated" ? "a simulated device" : s.device),
                 "font-size=\"17\" font-weight=\"bold\"");
  out += text_at(left, 50,
                 fmt::format("{} in {:.3g} s: {:.2f} GB/s, by {} reader thread{}",
                             human_bytes(static_cast<double>(s.result.bytes)), s.result.seconds,
                             s.result.gigabytes_per_second(), s.plan.threads, s.plan.threads == 1 ? "" : "s"));
  if (s.result.bytes == 0)
    out += text_at(left, 120, "Nothing to draw: there were no bytes.");
  else
    out += speeds(log, s) + buffers(log, s) + time_axis(480, s.result.seconds) +
           text_at(left + plot_width / 2, 502, "time since the start", "text-anchor=\"middle\"");
  return out + "</svg>\n";
}

}  // namespace stream_file
