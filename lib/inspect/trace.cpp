#include <thole/trace.hpp>

#include <algorithm>
#include <cstdio>
#include <map>
#include <mutex>
#include <ostream>
#include <utility>

#include <thole/error.hpp>

#include "base/immortal.hpp"
#include "base/thread_number.hpp"
#include "base/trace_log.hpp"

namespace thole::inline v0_1 {
namespace {

using detail::TraceEvent;
using detail::TraceLog;

/// The rows' names, which outlive a trace. Under the mutex of the log.
struct Names {
  std::map<std::uint64_t, std::string> threads;
  std::map<const void*, std::string> streams;
};

Names& names() { return detail::immortal<Names>(); }

std::string as_json(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += static_cast<unsigned char>(c) < 32 ? '?' : c;
  }
  return out + '"';
}

/// Nanoseconds as the microseconds that the format wants.
std::string microseconds(std::int64_t nanoseconds) {
  char text[40];
  (void)std::snprintf(text, sizeof text, "%.3f", static_cast<double>(nanoseconds) / 1e3);
  return text;
}

/// Writes the parts of the one JSON object.
class Writer {
 public:
  Writer(std::ostream& out, std::int64_t start) : out_(out), start_(start) { out_ << "{\"traceEvents\":["; }
  ~Writer() { out_ << "\n]}\n"; }
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  void name(std::size_t row, const std::string& name) {
    next() << R"({"name":"thread_name","ph":"M","pid":1,"tid":)" << row << R"(,"args":{"name":)" << as_json(name)
           << "}}";
  }

  void event(const TraceEvent& event, std::size_t row, std::size_t stream_row) {
    next() << "{\"name\":" << as_json(event.name) << ",\"pid\":1,\"tid\":" << (event.in_stream ? stream_row : row)
           << ",\"ts\":" << microseconds(event.begin - start_);
    if (event.duration >= 0)
      out_ << ",\"ph\":\"X\",\"dur\":" << microseconds(event.duration);
    else
      out_ << ",\"ph\":\"i\",\"s\":\"t\"";
    out_ << ",\"args\":{\"bytes\":" << event.bytes;
    if (event.stream != nullptr) out_ << ",\"stream\":" << stream_row;
    if (event.file != nullptr)
      out_ << ",\"place\":" << as_json(std::string(event.file) + ':' + std::to_string(event.line));
    out_ << "}}";
  }

 private:
  std::ostream& next() { return out_ << (std::exchange(first_, false) ? "\n" : ",\n"); }

  std::ostream& out_;
  const std::int64_t start_;
  bool first_ = true;
};

/// A stream's row, which is made when it first has an event. Threads have the numbers below.
class StreamRows {
 public:
  std::size_t row(const void* stream) {
    return stream == nullptr ? 0 : rows_.try_emplace(stream, first + rows_.size()).first->second;
  }
  const std::map<const void*, std::size_t>& all() const noexcept { return rows_; }
  static constexpr std::size_t first = 1'000'000;

 private:
  std::map<const void*, std::size_t> rows_;
};

}  // namespace

void start_trace(const TraceOptions& options) {
  if (options.events_per_thread == 0) throw Error(Errc::invalid_argument, "start_trace: 0 events for each thread");
  auto& log = detail::immortal<TraceLog>();
  const std::scoped_lock lock(log.mutex);
  if (detail::tracing()) throw Error(Errc::invalid_argument, "start_trace: a trace is going on; stop_trace ends it");
  log.events_per_thread = options.events_per_thread;
  log.generation.fetch_add(1, std::memory_order_relaxed);
  log.start = detail::trace_clock();
  detail::trace_is_on.store(true, std::memory_order_relaxed);
}

void stop_trace() noexcept { detail::trace_is_on.store(false, std::memory_order_relaxed); }

bool tracing() noexcept { return detail::tracing(); }

void write_trace(std::ostream& out) {
  auto& log = detail::immortal<TraceLog>();
  const std::scoped_lock lock(log.mutex);
  Writer writer(out, log.start);
  StreamRows streams;
  std::size_t lost = 0;
  for (const auto* buffer : log.buffers) {
    if (buffer->generation != log.generation.load(std::memory_order_relaxed)) continue;
    const auto row = static_cast<std::size_t>(buffer->thread);
    const auto name = names().threads.find(buffer->thread);
    writer.name(row, name != names().threads.end() ? name->second : "thread " + std::to_string(row));
    const std::size_t count = buffer->count.load(std::memory_order_acquire);  // pairs with keep_trace_event
    for (const TraceEvent *event = buffer->events.data(), *const end = event + count; event != end; ++event)
      writer.event(*event, row, streams.row(event->stream));
    lost += buffer->lost.load(std::memory_order_relaxed);
  }
  for (const auto& [stream, row] : streams.all()) {
    const auto name = names().streams.find(stream);
    writer.name(row,
                name != names().streams.end() ? name->second : "stream " + std::to_string(row - StreamRows::first + 1));
  }
  if (lost != 0) writer.name(0, "events that did not fit: " + std::to_string(lost));
}

void name_traced_thread(std::string name) {
  const std::scoped_lock lock(detail::immortal<TraceLog>().mutex);
  names().threads[detail::thread_number()] = std::move(name);
}

void name_traced_stream(NativeStream stream, std::string name) {
  const std::scoped_lock lock(detail::immortal<TraceLog>().mutex);
  names().streams[stream] = std::move(name);
}

void trace_in_stream(NativeStream stream, const char* name, std::chrono::steady_clock::time_point begin,
                     std::chrono::steady_clock::time_point end, std::size_t bytes) noexcept {
  if (!detail::tracing()) return;
  const auto at = [](auto time) {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count();
  };
  detail::keep_trace_event(
      {name, at(begin), std::max<std::int64_t>(at(end) - at(begin), 0), bytes, stream, nullptr, 0, true});
}

TraceSpan::TraceSpan(const char* name, std::size_t bytes) noexcept
    : name_(detail::tracing() ? name : nullptr), bytes_(bytes) {
  if (name_ != nullptr) begin_ = std::chrono::steady_clock::now();
}

TraceSpan::~TraceSpan() {
  if (name_ == nullptr) return;
  const auto begin = std::chrono::duration_cast<std::chrono::nanoseconds>(begin_.time_since_epoch()).count();
  detail::keep_trace_event({name_, begin, detail::trace_clock() - begin, bytes_});
}

}  // namespace thole::inline v0_1
