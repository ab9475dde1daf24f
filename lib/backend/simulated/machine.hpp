#pragma once

// The simulated machine: what all simulated devices of a process share, as GPUs of one process share a driver. One
// mutex guards everything here and in the devices; copies and host functions run outside it.

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <unordered_set>
#include <utility>
#include <vector>

#include <thole/simulation.hpp>

#include "backend/backend.hpp"
#include "backend/simulated/memory.hpp"
#include "backend/simulated/refusals.hpp"

namespace thole::detail::simulated {

struct Capture;
struct Graph;
struct Stream;

using Lock = std::unique_lock<std::mutex>;
using Duration = std::chrono::nanoseconds;
using WallTime = std::chrono::steady_clock::time_point;
/// Things to destroy once the mutex is unlocked: what they own may call back into the layers above.
using Garbage = std::vector<std::shared_ptr<void>>;

/// One record of an event: the point in a stream that waits refer to, whatever happens to the event later.
struct Point {
  bool done = false;
  bool lost = false;                             ///< it never will be done: its device is lost
  Duration at{0};                                ///< on the simulated clock
  std::vector<std::shared_ptr<Stream>> waiters;  ///< streams that run by themselves and stopped at it
};

struct Operation {
  enum class Kind { copy, record, wait, host_function, allocate, free };

  Kind kind = Kind::copy;
  // copy; allocate and free use destination
  void* destination = nullptr;
  const void* source = nullptr;
  std::size_t bytes = 0;
  std::uint64_t destination_id = 0;  ///< the Range's; 0: pageable
  std::uint64_t source_id = 0;
  std::shared_ptr<std::byte[]> staged;  ///< what a pageable source held when the copy was enqueued
  /// A wait's: what it waits for. Any other's: the point after it, if anybody asks for that.
  std::shared_ptr<Point> point;
  // host_function
  void (*function)(void*) = nullptr;
  void* argument = nullptr;
  /// The graph that the operation was launched from; lives until the operation is done.
  std::shared_ptr<const Graph> graph;
  WallTime enqueued_at;  ///< set only where copies are paced

  bool blocked() const noexcept { return kind == Kind::wait && !point->done && !point->lost; }
  bool touches(const Range& range) const noexcept {
    return (kind == Kind::copy || kind == Kind::free) && (destination_id == range.id || source_id == range.id);
  }
};

/// What retain_in_graph gave a graph: released when the last graph, executable or launched operation lets go of it.
struct Retained {
  void* object;
  void (*release)(void*);
  Retained(void* o, void (*r)(void*)) noexcept : object(o), release(r) {}
  Retained(const Retained&) = delete;
  Retained& operator=(const Retained&) = delete;
  ~Retained() { release(object); }
};

/// Operations in the order in which they were captured, which is an order that respects every dependency.
struct Graph {
  std::vector<Operation> nodes;
  std::vector<std::shared_ptr<Retained>> retained;
  bool capturing = false;
};

struct GraphExec {
  std::shared_ptr<const Graph> graph;
  std::shared_ptr<Point> last;  ///< the end of its latest launch: an executable does not run beside itself
};

struct Event {
  Device* device = nullptr;
  std::shared_ptr<Point> point;                         ///< the last record; nullptr: none, or a captured one
  std::shared_ptr<Capture> captured;                    ///< the capture in which it was last recorded
  std::map<std::uint64_t, std::size_t> captured_after;  ///< what of that capture lies before the record
};

/// One capture and the streams that take part. In each stream `seen` says how many nodes of each other stream its next
/// node comes after, which tells forks that were never joined.
struct Capture {
  std::uint64_t id = 0;
  std::uint64_t thread = 0;
  CaptureMode mode = CaptureMode::global;
  bool invalidated = false;
  bool ended = false;
  std::shared_ptr<Graph> graph;
  std::shared_ptr<Stream> origin;
  std::vector<std::shared_ptr<Stream>> streams;
};

struct Stream {
  enum class Mode { stepped, held, automatic };

  Device* device = nullptr;  ///< nullptr once that is gone
  std::uint64_t id = 0;
  Mode mode = Mode::automatic;
  bool destroyed = false;
  bool running = false;  ///< a thread executes an operation of it
  bool ready = false;    ///< in a list of streams to run
  const Operation* current = nullptr;
  std::deque<Operation> queue;
  std::uint64_t enqueued = 0;
  std::uint64_t completed = 0;
  std::size_t leaving_bytes = 0;  ///< of device memory that frees in the queue will give back
  Duration clock{0};
  WallTime paced_until;
  std::shared_ptr<Capture> capture;
  std::map<std::uint64_t, std::size_t> seen;

  bool can_go_on() const noexcept;
};

struct Device : std::enable_shared_from_this<Device> {
  explicit Device(const SimulationOptions& o) : options(o), memory(o.device_bytes), random(o.seed) {}

  SimulationOptions options;
  DeviceMemory memory;
  std::mt19937_64 random;
  bool lost = false;
  std::string lost_because;
  std::size_t pinned_bytes = 0;
  std::size_t live_events = 0;
  std::size_t blocked_callers = 0;
  Duration now{0};
  std::map<std::uint64_t, std::shared_ptr<Stream>> streams;  ///< by id: also destroyed ones with work left
  std::shared_ptr<Stream> legacy_stream;
  std::map<std::uint64_t, std::shared_ptr<Stream>> thread_streams;  ///< by thread_number()

  struct Counter {
    std::size_t calls = 0;
    std::size_t fail_in = 0;  ///< the call that fails, counted from 1; 0: none
  };
  std::map<SimulatedCall, Counter> counters;

  // Worker threads, where streams run by themselves: one for each stream that has work, up to a bound.
  std::condition_variable work;
  std::deque<std::shared_ptr<Stream>> ready;
  std::vector<std::thread> workers;
  std::size_t busy_workers = 0;
  bool stop = false;

  bool paced() const noexcept {
    return !options.stepped && (options.bytes_per_second > 0 || options.latency.count() > 0);
  }
  Duration time_for(const Operation& operation) const noexcept;
};

inline bool Stream::can_go_on() const noexcept {
  return device != nullptr && !device->lost && !running && !queue.empty() && !queue.front().blocked();
}

/// A value that a stream handle may have. Slots are never given back and are used again at once, so that a handle of a
/// destroyed stream soon means another stream, as it does with CUDA.
struct StreamSlot {
  std::shared_ptr<Stream> stream;
};

struct Machine {
  std::mutex mutex;
  std::vector<Device*> devices;
  std::condition_variable changed;  ///< something completed, was lost, or stopped running
  RangeTable pinned;
  RangeTable device_memory;
  std::uint64_t last_range_id = 0;
  std::uint64_t last_stream_id = 1'000'000'000'000;  ///< far above any of CUDA's, which share the process
  std::uint64_t last_capture_id = 0;
  std::deque<StreamSlot> slots;
  std::vector<StreamSlot*> free_slots;
  std::unordered_set<const void*> slot_handles;
  std::unordered_set<const void*> events;
  std::vector<std::shared_ptr<Capture>> captures;
  std::map<const void*, std::shared_ptr<Graph>> graphs;
  std::map<const void*, std::unique_ptr<GraphExec>> execs;
  std::deque<std::shared_ptr<Stream>> ready_inline;  ///< released streams of stepped devices
};

/// The one machine; never destroyed, so that devices may be used at any moment of the process's end.
Machine& machine() noexcept;
/// A number for the calling thread that no other thread gets.
std::uint64_t thread_number() noexcept;

// ---- Running (simulated_run.cpp). Each wants the mutex locked; those with a Lock may unlock it for a while.
/// Appends to the stream and makes it run where it runs by itself.
void enqueue(const std::shared_ptr<Stream>& stream, Operation operation);
/// Runs the stream's next operation on this thread; `can_go_on()` must hold. False when the device was lost meanwhile.
bool run_one(Lock& lock, const std::shared_ptr<Stream>& stream);
/// Puts a stream that runs by itself and can go on where a thread will find it.
void schedule(const std::shared_ptr<Stream>& stream);
/// Runs released streams of stepped devices on this thread until none of them can go on.
void run_inline(Lock& lock);
void lose(Device& device, const std::string& because, Garbage& garbage);
/// Blocks the caller until the stream has completed so many operations. False when its device was lost.
bool wait_for_stream(Lock& lock, const std::shared_ptr<Stream>& stream, std::uint64_t completed);
/// Waits until no thread is in the middle of a copy that touches the range.
void wait_while_touched(Lock& lock, const Range& range);
/// Whether an operation that has not completed touches the range.
bool in_use(const Range& range);
/// The device's end: finishes what can run by itself, joins the workers, drops the rest and what the device pinned.
void shut_down(Device& device);

// ---- Capture (simulated_capture.cpp). Each wants the mutex locked.
/// The calling thread's capture mode.
CaptureMode& thread_capture_mode() noexcept;
/// For a call that is unsafe in capture: invalidates the captures that forbid it and says whether there are any.
bool forbidden_by_capture() noexcept;
void invalidate(Capture& capture) noexcept;
/// Ends the capture without a graph.
void discard(const std::shared_ptr<Capture>& capture, Garbage& garbage);
/// Makes the operation a node of the capture that the stream takes part in.
Status capture_node(Stream& stream, Operation operation);
Status capture_record(Stream& stream, Event& event);
Status capture_wait(const std::shared_ptr<Stream>& stream, Event& event);
Status begin_capture(const std::shared_ptr<Stream>& stream, CaptureMode mode);
Status end_capture(const std::shared_ptr<Stream>& stream, GraphHandle* graph, Garbage& garbage);
/// Enqueues the executable's operations, or adds them to the capture that the stream takes part in.
Status launch(GraphExec& exec, const std::shared_ptr<Stream>& stream);

}  // namespace thole::detail::simulated
