#pragma once

// What happened when, while somebody traces (<thole/trace.hpp>): each thread writes into a buffer of its own, without a
// lock, and what does not fit is counted. When nobody traces, the cost is one relaxed load.

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <vector>

namespace thole::inline v0_1::detail {

/// Whether somebody traces. Pairs with nothing: an event more or less at either end does no harm.
inline constinit std::atomic<bool> trace_is_on{false};
inline bool tracing() noexcept { return trace_is_on.load(std::memory_order_relaxed); }

inline std::int64_t trace_clock() noexcept {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

/// Of trace_clock, in nanoseconds. The texts live as long as the process.
struct TraceEvent {
  const char* name = nullptr;
  std::int64_t begin = 0;
  std::int64_t duration = -1;  // -1: a moment
  std::uint64_t bytes = 0;
  const void* stream = nullptr;  // the native handle, where a stream has to do with it
  const char* file = nullptr;    // where the program asked for it
  std::uint32_t line = 0;
  bool in_stream = false;  // it ran there, and not on the thread
};

/// Takes the event down. Not blocking, but for a thread's first event in a trace, which gets it a buffer. Never fails.
void keep_trace_event(const TraceEvent& event) noexcept;

inline void trace(const char* name, std::uint64_t bytes, const void* stream = nullptr, const char* file = nullptr,
                  std::uint32_t line = 0) noexcept {
  if (tracing()) [[unlikely]]
    keep_trace_event({name, trace_clock(), -1, bytes, stream, file, line});
}

/// An event from here to the end of the scope; none for nullptr.
class TraceScope {
 public:
  explicit TraceScope(const char* name, std::uint64_t bytes = 0, const void* stream = nullptr) noexcept {
    if (tracing() && name != nullptr) [[unlikely]]
      event_ = {name, trace_clock(), 0, bytes, stream};
  }
  ~TraceScope() {
    if (event_.name == nullptr) [[likely]]
      return;
    event_.duration = trace_clock() - event_.begin;
    keep_trace_event(event_);
  }
  TraceScope(const TraceScope&) = delete;
  TraceScope& operator=(const TraceScope&) = delete;

 private:
  TraceEvent event_;
};

/// The events of one thread. They are written by that thread alone and are never moved.
struct TraceBuffer {
  std::vector<TraceEvent> events;     // within what was reserved: others read it meanwhile, up to the count
  std::size_t most = 0;               // events of this trace
  std::atomic<std::size_t> count{0};  // written; the thread's release pairs with the reader's acquire
  std::atomic<std::size_t> lost{0};   // only counts: pairs with nothing
  std::uint64_t generation = 0;       // the trace that it is of; written by the thread, under the log's mutex
  std::uint64_t thread = 0;           // its number; likewise
  bool owned = true;                  // by a living thread; under the mutex
};

/// One in the process (immortal); a forked child has its own.
struct TraceLog {
  std::mutex mutex;
  std::vector<TraceBuffer*> buffers;         // of all traces; used again, never given back
  std::atomic<std::uint64_t> generation{0};  // of the trace that goes on or was the last; only a number
  std::size_t events_per_thread = 0;
  std::int64_t start = 0;
};

}  // namespace thole::inline v0_1::detail
