#include "base/trace_log.hpp"

#include <new>

#include "base/immortal.hpp"
#include "base/thread_number.hpp"

namespace thole::inline v0_1::detail {
namespace {

/// This thread's buffer, and the log that it is of: a forked child has another.
struct Mine {
  TraceLog* log = nullptr;
  TraceBuffer* buffer = nullptr;
  bool ended = false;
  ~Mine() {
    ended = true;
    if (buffer == nullptr || log != &immortal<TraceLog>()) return;
    const std::scoped_lock lock(log->mutex);
    buffer->owned = false;
    buffer = nullptr;
  }
};

thread_local Mine mine;

/// A buffer of the present trace for this thread; nullptr where there is no memory.
TraceBuffer* find_buffer(TraceLog& log) noexcept try {
  const std::scoped_lock lock(log.mutex);
  const auto generation = log.generation.load(std::memory_order_relaxed);
  TraceBuffer* buffer = mine.log == &log ? mine.buffer : nullptr;
  for (auto at = log.buffers.begin(); buffer == nullptr && at != log.buffers.end(); ++at)
    if (!(*at)->owned && (*at)->generation != generation) buffer = *at;
  if (buffer == nullptr) {
    log.buffers.reserve(log.buffers.size() + 1);
    buffer = new TraceBuffer;
    log.buffers.push_back(buffer);
  }
  buffer->owned = true;
  mine.log = &log;
  mine.buffer = buffer;
  buffer->events.clear();
  buffer->events.reserve(log.events_per_thread);
  buffer->most = log.events_per_thread;
  buffer->count.store(0, std::memory_order_relaxed);
  buffer->lost.store(0, std::memory_order_relaxed);
  buffer->thread = thread_number();
  buffer->generation = generation;
  return buffer;
} catch (...) {
  return nullptr;
}

}  // namespace

void keep_trace_event(const TraceEvent& event) noexcept {
  if (mine.ended) return;  // the thread's last moments
  TraceLog& log = immortal<TraceLog>();
  TraceBuffer* buffer = mine.buffer;
  if (buffer == nullptr || mine.log != &log || buffer->generation != log.generation.load(std::memory_order_relaxed))
    buffer = find_buffer(log);
  if (buffer == nullptr) return;
  const std::size_t at = buffer->count.load(std::memory_order_relaxed);
  if (at >= buffer->most) {
    buffer->lost.fetch_add(1, std::memory_order_relaxed);
    return;
  }
  buffer->events.push_back(event);
  buffer->count.store(at + 1, std::memory_order_release);
}

}  // namespace thole::inline v0_1::detail
