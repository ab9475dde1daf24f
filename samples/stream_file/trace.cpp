#include <fmt/core.h>
#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "plot.hpp"

namespace stream_file {
namespace {

const char* name_of(Doing doing) {
  switch (doing) {
    case Doing::wait:
      return "wait for a buffer";
    case Doing::read:
      return "read";
    case Doing::check:
      return "check what came back";
    case Doing::write:
      return "write";
    case Doing::to_device:
      return "copy to the device";
    case Doing::to_host:
      return "copy to the host";
  }
  return "";
}

bool on_device(Doing doing) { return doing == Doing::to_device || doing == Doing::to_host; }

}  // namespace

std::string as_trace(const Log& log) {
  // One process; a lane's thread is row 2n, its stream 2n + 1.
  std::string text = R"({"traceEvents":[{"name":"process_name","ph":"M","pid":1,"args":{"name":"stream_file"}})";
  const auto out = std::back_inserter(text);
  for (std::size_t lane = 0; lane < log.lanes(); ++lane) {
    for (const auto& [row, what] : {std::pair{2 * lane, "reader"}, std::pair{2 * lane + 1, "stream"}})
      fmt::format_to(out,
                     ",\n"
                     R"({{"name":"thread_name","ph":"M","pid":1,"tid":{},"args":{{"name":"{} {}"}}}})",
                     row, what, lane);
    double stream_free = 0;  // a copy starts when the one before it in its stream is done
    for (const Span& span : log.spans(lane)) {
      const bool device = on_device(span.doing);
      const double begin = device ? std::min(std::max(span.begin, stream_free), span.end) : span.begin;
      if (device) stream_free = span.end;
      fmt::format_to(out,
                     ",\n"
                     R"({{"name":"{}","ph":"X","pid":1,"tid":{},"ts":{:.3f},"dur":{:.3f},"args":{{"bytes":{}}}}})",
                     name_of(span.doing), 2 * lane + (device ? 1 : 0), begin * 1e6, (span.end - begin) * 1e6,
                     span.bytes);
    }
  }
  return text + "\n]}\n";
}

}  // namespace stream_file
