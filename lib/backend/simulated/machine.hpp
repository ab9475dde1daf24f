#pragma once

// The simulated machine: what all simulated devices of a process share, as GPUs of one process share a driver. One
// mutex guards everything here and in the devices; copies and host functions run outside it. Only data here: run.hpp
// runs it, capture.hpp captures it, launch.hpp launches graphs, call.hpp is the way in.

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
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

#include <thole/simulation_options.hpp>

#include "backend/backend.hpp"
#include "backend/simulated/device_memory.hpp"
#include "backend/simulated/memory.hpp"
#include "backend/simulated/refusals.hpp"
#include "base/fork.hpp"
#include "base/host_function.hpp"
#include "base/thread_number.hpp"

namespace thole::inline v0_1::detail::simulated {

struct Capture;
struct Graph;
struct SimulatedStream;

using StreamPtr = std::shared_ptr<SimulatedStream>;
using Lock = std::unique_lock<std::mutex>;
using Duration = std::chrono::nanoseconds;
using WallTime = std::chrono::steady_clock::time_point;
/// Things to destroy once the mutex is unlocked: what they own may call back into the layers above.
using Garbage = std::vector<std::shared_ptr<void>>;

/// One record of an event: the point in a stream that waits refer to, whatever happens to the event later.
struct Point {
  std::weak_ptr<SimulatedStream> stream;  ///< where it was recorded, and as the how many-th operation there
  std::uint64_t position = 0;
  bool done = false;
  bool lost = false;               ///< it never will be done: its device is lost
  Duration at{0};                  ///< on the simulated clock
  std::vector<StreamPtr> waiters;  ///< streams that run by themselves and stopped at it
};

/// A kernel: the program's function, and what it is given.
struct Kernel {
  struct Argument {
    void* data;
    std::size_t bytes;
    std::uint64_t id;  ///< the Range's; 0: no memory
    bool writes;
  };
  std::vector<Argument> arguments;
  void (*run)(void* function, void* const* places) = nullptr;
  std::shared_ptr<void> function;
};

struct Operation {
  enum class Kind { copy, record, wait, host_function, kernel, allocate, free };

  Kind kind = Kind::copy;
  // copy; allocate and free use destination
  void* destination = nullptr;
  const void* source = nullptr;
  std::size_t bytes = 0;
  CopyKind way = CopyKind::host_to_host;
  std::uint64_t destination_id = 0;  ///< the Range's; 0: pageable
  std::uint64_t source_id = 0;
  std::shared_ptr<std::byte[]> staged;  ///< what a pageable source held when the copy was enqueued
  /// A wait's: what it waits for. Any other's: the point after it, if anybody asks for that.
  std::shared_ptr<Point> point;
  EventHandle event = nullptr;  ///< a graph's record: what each launch records
  // host_function
  void (*function)(void*) = nullptr;
  void* argument = nullptr;
  std::shared_ptr<const Kernel> kernel;
  /// The graph that the operation was launched from; lives until the operation is done.
  std::shared_ptr<const Graph> graph;
  bool of_branches = false;  ///< of a launch whose branches run beside each other
  std::size_t places = 1;    ///< of the queue that are free when it begins: one for each node of a graph
  WallTime enqueued_at;      ///< set only where copies are paced
  WallTime due;              ///< set only in late mode: when it completes though nobody asks

  bool blocked() const noexcept { return kind == Kind::wait && !point->done && !point->lost; }
  bool moves_memory() const noexcept { return kind == Kind::copy || kind == Kind::kernel; }
  bool touches(const Range& range) const noexcept {
    if (kind == Kind::kernel)
      return std::ranges::any_of(kernel->arguments, [&](const auto& given) { return given.id == range.id; });
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
  ~Retained() {
    const InHostFunction no_calls;
    release(object);
  }
};

/// One captured operation. `after` says how many nodes of each stream it comes after.
struct Node {
  Operation operation;
  std::uint64_t stream = 0;
  std::map<std::uint64_t, std::size_t> after;
};

/// Nodes in the order in which they were captured. Those of one stream run in that order; branches, beside each other.
struct Graph {
  std::vector<Node> nodes;
  std::vector<std::shared_ptr<Retained>> retained;
  bool capturing = false;
};

struct GraphExec {
  std::shared_ptr<const Graph> graph;
  std::shared_ptr<Point> last;  ///< the end of its latest launch: an executable does not run beside itself
};

struct SimulatedEvent {
  SimulatedDevice* device = nullptr;
  bool timing = false;                                  ///< made to measure time
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
  StreamPtr origin;
  std::vector<StreamPtr> streams;
};

struct SimulatedStream {
  enum class Mode { stepped, held, automatic };

  SimulatedDevice* device = nullptr;  ///< nullptr once that is gone
  std::uint64_t id = 0;
  Mode mode = Mode::automatic;
  int priority = 0;  ///< only to be asked for: any stream may come first
  bool destroyed = false;
  bool running = false;                           ///< a thread executes an operation of it
  bool ready = false;                             ///< in a list of streams to run
  bool per_thread = false;                        ///< a per-thread default stream
  std::map<std::uint64_t, std::uint64_t> behind;  ///< a default stream's: how much of each other one it comes after
  Operation* current = nullptr;
  std::deque<Operation> queue;
  std::uint64_t enqueued = 0;
  std::uint64_t completed = 0;
  std::uint64_t demanded = 0;     ///< so many operations somebody waits for, or asks for
  std::size_t leaving_bytes = 0;  ///< of device memory that frees in the queue will give back
  std::size_t places = 0;         ///< of the queue that are taken
  Duration clock{0};
  WallTime paced_until;
  std::shared_ptr<Capture> capture;
  std::map<std::uint64_t, std::size_t> seen;

  bool can_go_on() const noexcept;
};

/// When a link between host and device is free again.
struct Link {
  Duration clock{0};  ///< on the simulated clock
  WallTime paced_until;
};

struct SimulatedDevice : std::enable_shared_from_this<SimulatedDevice> {
  explicit SimulatedDevice(const SimulationOptions& o) : options(o), memory(o.device_bytes), random(o.seed) {}

  SimulationOptions options;
  const std::uint32_t process = this_process();  ///< that made it: a forked child's devices are dead
  DeviceMemory memory;
  std::mt19937_64 random;
  bool lost = false;
  std::string lost_because;
  std::size_t pinned_bytes = 0;
  std::size_t live_events = 0;
  std::size_t blocked_callers = 0;
  std::size_t callers_at_full_queues = 0;  ///< of those: they wait for room, and hold one of CUDA's locks meanwhile
  Duration now{0};
  std::map<std::uint64_t, StreamPtr> streams;  ///< by id: also destroyed ones with work left
  StreamPtr legacy_stream;
  std::map<std::uint64_t, StreamPtr> thread_streams;  ///< by thread_number()

  /// What tests asked for and want to know of one kind of call.
  struct CallKind {
    std::size_t calls = 0;
    std::size_t fail_in = 0;       ///< the call that fails, counted from 1; 0: none
    std::function<void()> before;  ///< what the next call runs first, or last
    std::function<void()> after;
  };
  /// All there are, so that counting a call needs no memory.
  struct CallKinds {
    std::array<CallKind, static_cast<std::size_t>(SimulatedCall::destroy_graph_exec) + 1> kinds;
    CallKind& operator[](SimulatedCall call) noexcept { return kinds[static_cast<std::size_t>(call)]; }
  } calls;

  // Worker threads, where streams run by themselves: one for each stream that has work, up to a bound.
  std::condition_variable work;
  std::deque<StreamPtr> ready;
  std::vector<std::thread> workers;
  std::size_t busy_workers = 0;
  std::size_t waiting_threads = 0;  ///< they have an operation that needs no processor yet: the bound leaves them out
  bool stop = false;

  /// SimulationOptions::queue_limit; 0: none.
  std::size_t queue_limit() const noexcept { return options.queue_limit.value_or(options.stepped ? 0 : 1'000); }
  bool late() const noexcept { return !options.stepped && options.late.count() > 0; }
  bool paced() const noexcept {
    return !options.stepped && (options.bytes_per_second > 0 || options.latency.count() > 0);
  }
  Duration time_for(const Operation& operation) const noexcept;
  /// The link that the operation's bytes take, where copies take time: all copies of one direction share one.
  Link* link_of(const Operation& operation) noexcept;
  Link to_device;
  Link from_device;
};

inline bool SimulatedStream::can_go_on() const noexcept {
  return device != nullptr && !device->lost && !running && !queue.empty() && !queue.front().blocked();
}

/// What a value of a stream handle means. Slots are never given back and are used again at once, so that a handle of a
/// destroyed stream soon means another stream, as it does with CUDA.
struct StreamSlot {
  StreamPtr stream;
};

/// A host function on its way through the machine's one thread for them.
struct HostFunction {
  void (*function)(void*);
  void* argument;
  bool done = false;
};

struct Machine {
  std::mutex mutex;
  /// Shared with their backends, so that a forked child, which has no part in the parent's devices, never destroys one.
  std::vector<std::shared_ptr<SimulatedDevice>> devices;
  std::condition_variable changed;  ///< something completed, was lost, or stopped running
  std::string lost_because;         ///< not empty: a loss that was final
  RangeTable pinned;
  RangeTable mapped;  ///< pinned memory by the devices' own addresses, where they differ
  RangeTable device_memory;
  bool unpinning = false;  ///< somebody unpins, and waits for running work with CUDA's lock held
  std::uint64_t last_range_id = 0;
  std::uint64_t last_stream_id = 1'000'000'000'000;  ///< far above any of CUDA's, which share the process
  std::uint64_t last_capture_id = 0;
  std::deque<StreamSlot> slots;
  std::vector<StreamHandle> free_slots;
  std::unordered_set<const void*> events;
  std::vector<std::shared_ptr<Capture>> captures;
  std::map<const void*, std::shared_ptr<Graph>> graphs;
  std::map<const void*, std::unique_ptr<GraphExec>> execs;
  std::deque<StreamPtr> ready_inline;  ///< released streams of stepped devices

  // The thread that runs the host functions of all devices that run by themselves, made for the first one.
  std::condition_variable host_work;
  std::deque<HostFunction*> host_functions;  ///< each on the stack of a worker that waits for it
  bool has_host_thread = false;
  std::atomic<std::size_t> calls_in_host_functions{0};  ///< refused or not
};

/// The one machine; immortal, so that devices may be used at any moment of the process's end.
Machine& machine() noexcept;

}  // namespace thole::inline v0_1::detail::simulated
