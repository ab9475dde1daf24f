#pragma once

// What happened when, for the picture; kept only when it is wanted. For a trace thole keeps it (<thole/trace.hpp>).

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <thole/trace.hpp>
#include <vector>

namespace stream_file {

/// What a lane's thread, or its stream, was doing.
enum class Doing { wait, read, check, write, to_device, to_host };

struct Span {
  Doing doing;
  std::uint64_t bytes = 0;
  double begin = 0, end = 0;  ///< Seconds since the start.
};

/// Thread safety: each lane has one thread. The device's side of a lane ends its spans on a thread of the device's;
/// they may be read when the lane's stream is done.
class Log {
 public:
  explicit Log(std::size_t lanes) : lanes_(lanes) {}
  void start() noexcept { start_ = Clock::now(); }
  double now() const noexcept { return std::chrono::duration<double>(Clock::now() - start_).count(); }

  /// Begins a span; it stays where it is.
  Span& begin(std::size_t lane, Doing doing, std::uint64_t bytes);

  const std::deque<Span>& spans(std::size_t lane) const { return lanes_[lane].spans; }
  std::size_t lanes() const noexcept { return lanes_.size(); }
  /// The moments at which a lane took a buffer that it then used.
  const std::vector<double>& taken(std::size_t lane) const { return lanes_[lane].taken; }
  void take(std::size_t lane, double at) { lanes_[lane].taken.push_back(at); }

 private:
  using Clock = std::chrono::steady_clock;
  struct Lane {
    std::deque<Span> spans;
    std::vector<double> taken;
  };
  Clock::time_point start_ = Clock::now();
  std::vector<Lane> lanes_;
};

/// What a person calls it.
const char* name_of(Doing doing) noexcept;

/// A span of the lane's thread, from here to the end of the scope, in the log and in the trace, where there are such.
class Timed {
 public:
  Timed(Log* log, std::size_t lane, Doing doing, std::uint64_t bytes = 0)
      : log_(log), span_(log == nullptr ? nullptr : &log->begin(lane, doing, bytes)), traced_(name_of(doing), bytes) {}
  Timed(const Timed&) = delete;
  Timed& operator=(const Timed&) = delete;
  ~Timed() {
    if (span_ != nullptr) span_->end = log_->now();
  }
  void bytes(std::uint64_t count) {
    traced_.set_bytes(count);
    if (span_ != nullptr) span_->bytes = count;
  }

 private:
  Log* log_;
  Span* span_;
  thole::TraceSpan traced_;
};

}  // namespace stream_file
