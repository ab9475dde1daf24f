#pragma once

#include <chrono>
#include <cstddef>
#include <iosfwd>
#include <string>

#include <thole/export.hpp>
#include <thole/stream.hpp>

namespace thole::inline v0_1 {

/// What a trace is made with.
/// Thread safety: plain data.
struct TraceOptions {
  /// Events that are kept of each thread, at 56 bytes each, from its first one on; the rest is counted. At least 1.
  std::size_t events_per_thread = std::size_t{1} << 16;
};

/// Starts to take down what thole does in the whole process, and forgets what was taken down before: buffers made,
/// dropped and reclaimed, work handed to streams, waits, growth, each with thread, time, bytes, and stream or place.
/// Costs some tens of nanoseconds an event while it is on, and a load of one word where it is off. Throws `Error` with
/// `Errc::invalid_argument` when a trace is going on, or for 0 events.
///
/// Thread safety: all functions here may be called by many threads at once.
THOLE_EXPORT void start_trace(const TraceOptions& options = {});
/// No event is taken down from now on; those that are stay until the next start.
THOLE_EXPORT void stop_trace() noexcept;
/// Whether a trace is going on.
[[nodiscard]] THOLE_EXPORT bool tracing() noexcept;
/// Writes the events so far as JSON for ui.perfetto.dev and chrome://tracing: a row for each thread and each stream.
THOLE_EXPORT void write_trace(std::ostream& out);

/// What the calling thread's row, or a stream's, is called; in this and all later traces of the process.
THOLE_EXPORT void name_traced_thread(std::string name);
THOLE_EXPORT void name_traced_stream(NativeStream stream, std::string name);

/// Something of the program's own that ran in a stream, as a copy whose end it was told; when a trace is going on. Also
/// in a function in `launch_host_function`. The name is a text that lives on, such as a literal.
THOLE_EXPORT void trace_in_stream(NativeStream stream, const char* name, std::chrono::steady_clock::time_point begin,
                                  std::chrono::steady_clock::time_point end, std::size_t bytes = 0) noexcept;

/// Something of the program's own on this thread, from here to the end of the scope. The name is a text that lives on.
///
/// Thread safety: one thread.
class THOLE_EXPORT TraceSpan {
 public:
  /// Begins now.
  explicit TraceSpan(const char* name, std::size_t bytes = 0) noexcept;
  TraceSpan(const TraceSpan&) = delete;
  TraceSpan& operator=(const TraceSpan&) = delete;
  ~TraceSpan();
  /// Where it is known only later.
  void set_bytes(std::size_t bytes) noexcept { bytes_ = bytes; }

 private:
  const char* name_;  // nullptr: there was no trace
  std::size_t bytes_;
  std::chrono::steady_clock::time_point begin_;
};

}  // namespace thole::inline v0_1
