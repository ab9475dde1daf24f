#pragma once

// THE SEAM. Everything that thole asks of a device goes through this one class; cuda_backend and the simulated
// device implement it, tests/contract holds both to the same rules, and nothing above it knows which one it has.
//
// Each promise has a number in brackets. The cases of tests/contract carry the numbers of what they ask in their names;
// tests/tree/check_promises.py fails for a promise that no case asks.
//
// Shared rules, stated once:
//  - No call throws. Each returns a Status; results go through the last parameter, untouched on failure [1].
//  - A call may be made from any thread at any time unless it says otherwise. Calls on one stream from several
//    threads are ordered as they arrive [2].
//  - Calls that say "unsafe in capture" invalidate captures exactly as CUDA's do: any capture in global mode in the
//    process [3], and a capture in thread-local mode begun by the calling thread [4], unless the calling thread's own
//    capture mode (exchange_capture_mode) is relaxed [5]. The layers above use CaptureGuard around them.
//  - After the device is lost every call but describe and exchange_capture_mode returns device_lost; check_stream,
//    device_address, graph_nodes and retain_in_graph, which may need no call of the device, may be ok. The destroys,
//    free_host and unregister_host let go all the same where they can [6].
//  - What does not say so is safe in capture: it breaks none but that of the stream that it is given [69].
//  - A stream takes hundreds of operations, about 1,000 on a GPU, where each node of a graph that is launched counts; a
//    call that adds one more waits for room [7]. While
//    one waits so, no thread makes or destroys streams and events, pins or unpins memory, begins a capture or launches
//    a host function [66]; what gives other work to other streams goes on, and so do queries and waits.
//  - The default streams wait for each other [8]. While a thread's captures, any call on the legacy one is `capture`,
//    and each but capture_info invalidates the capture [9].
//  - A call of a device that another process made (this one's parent, before a fork) returns device_lost at once [10],
//    but for device_address, which may need no call.
//  - Sizes are bytes.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace thole::inline v0_1::detail {

using StreamHandle = void*;     ///< cudaStream_t
using EventHandle = void*;      ///< cudaEvent_t
using GraphHandle = void*;      ///< cudaGraph_t
using GraphExecHandle = void*;  ///< cudaGraphExec_t

enum class StatusCode {
  ok,
  not_ready,      ///< query_event: the work is still to be done.
  out_of_memory,  ///< Host or device memory, or the limit on pinned memory.
  invalid,        ///< An argument that the device refuses, such as a copy across two registrations.
  not_permitted,  ///< A call that is not allowed in a host function.
  wrong_device,   ///< The stream belongs to another device, or to another context of it.
  capture,        ///< Not allowed on a capturing stream, or the capture was invalidated.
  device_lost,    ///< A sticky error; nothing will run again.
  unloading,      ///< The process is ending: the runtime goes away, or is about to and makes no more calls.
  failed,         ///< Anything else; describe() says what.
};

/// The outcome of one call; `native` is the backend's own number for it (a cudaError_t), for describe().
struct [[nodiscard]] Status {
  StatusCode code = StatusCode::ok;
  int native = 0;

  bool ok() const noexcept { return code == StatusCode::ok; }
};

/// What the device may do with registered memory.
enum class HostAccess { read_write, read_only };

enum class CopyKind { host_to_device, device_to_host, device_to_device, host_to_host };

/// As cudaStreamCaptureMode.
enum class CaptureMode { global, thread_local_, relaxed };

/// What an event is made for.
struct EventFlags {
  bool timing = false;    ///< elapsed() may be asked
  bool blocking = false;  ///< synchronize_event sleeps, instead of spinning
};

/// What capture_info answers. `graph` is the graph being built, valid while the capture goes on.
struct CaptureInfo {
  enum class State { none, active, invalidated } state = State::none;
  std::uint64_t id = 0;
  GraphHandle graph = nullptr;
};

class DeviceBackend {
 public:
  DeviceBackend() = default;
  DeviceBackend(const DeviceBackend&) = delete;
  DeviceBackend& operator=(const DeviceBackend&) = delete;
  /// Nothing made by this backend may be alive but registered memory and what allocate_host gave: who asked lets go.
  virtual ~DeviceBackend() = default;

  /// What the layers above keep until the backend has let go of all memory: destroyed last.
  std::shared_ptr<void> ends_last;

  // ---- Identity
  virtual bool simulated() const noexcept = 0;
  virtual int ordinal() const noexcept = 0;
  virtual std::string_view name() const noexcept = 0;
  /// The backend's own name and text for a Status, such as "cudaErrorInvalidValue: invalid argument" [11].
  virtual std::string describe(Status status) const = 0;
  /// The NUMA node of the machine that the device sits on [65]; -1: on none, or nobody knows.
  virtual int numa_node() const noexcept = 0;

  // ---- Pinned host memory
  /// Pins [data, data + bytes) for every device; invalid where not all of it is mapped and writable [12], or some of it
  /// is pinned already [13]. Read-only memory need not be writable [64], where the device knows such registrations; the
  /// caller sees to it that the device never writes it. Unsafe in capture. Does not wait for running work [14].
  virtual Status register_host(void* data, std::size_t bytes, HostAccess access = HostAccess::read_write) noexcept = 0;
  /// Undoes register_host; invalid for memory that is not pinned [15]. Unsafe in capture, or done without harm: CUDA
  /// does not say which. WAITS until all running work, of any stream and on whatever memory, is done [16]; meanwhile
  /// calls that make, enqueue, pin or capture anything wait on every thread; queries, synchronising, wait_event and
  /// allocate_device go on [67].
  virtual Status unregister_host(void* data) noexcept = 0;
  /// Pinned memory from the driver [17]; 0 bytes are invalid. Unsafe in capture.
  virtual Status allocate_host(std::size_t bytes, void** data) noexcept = 0;
  /// Undoes allocate_host. In captures and beside running work as unregister_host [18].
  virtual Status free_host(void* data) noexcept = 0;

  /// Where kernels find pinned memory that the CPU has at `data`: there, or at an address of the device's own, which
  /// copies take, too [63]. `data` is pinned. Not unsafe in capture; costs nothing where the addresses are the same.
  virtual Status device_address(const void* data, const void** device) noexcept = 0;

  // ---- Device memory, in stream order [19]. Both unsafe in capture, whatever the stream. The CPU can neither read nor
  // write it [20]. No stream waits for another one to get memory [21]. Invalid: 0 bytes [76], a second free [77].
  virtual Status allocate_device(std::size_t bytes, StreamHandle stream, void** data) noexcept = 0;
  virtual Status free_device(void* data, StreamHandle stream) noexcept = 0;

  // ---- Streams. They run beside each other [71], as far as they share no connection of the GPU (DeviceOptions).
  /// A stream that does not synchronise with the legacy default stream [22]. Not unsafe in capture.
  /// Lower priorities come first, as with cudaStreamCreateWithPriority; beyond the device's range is at its end [23].
  virtual Status create_stream(StreamHandle* stream, int priority = 0) noexcept = 0;
  virtual Status stream_priority(StreamHandle stream, int* priority) noexcept = 0;
  /// Returns at once; work in the stream still completes. Events recorded in it stay valid [24].
  virtual Status destroy_stream(StreamHandle stream) noexcept = 0;
  /// Blocks until all work in the stream is done [25]. Not allowed while it captures [26]; unsafe in capture, whatever
  /// the stream.
  virtual Status synchronize_stream(StreamHandle stream) noexcept = 0;
  /// A number that no other stream of the process, past or future, has (cudaStreamGetId) [27]. Not of a stream that
  /// captures: `capture`, which invalidates the capture, whatever the thread's mode [74].
  virtual Status stream_id(StreamHandle stream, std::uint64_t* id) noexcept = 0;
  /// Whether the stream belongs to this device (on a GPU: to its primary context): else wrong_device. The default
  /// streams are always this device's [28], and one whose capture is invalidated, which cannot be asked, counts so
  /// [81].
  virtual Status check_stream(StreamHandle stream) noexcept = 0;
  /// Whether the stream captures; `capture` for the legacy stream while a thread's default one captures. Never blocks,
  /// never invalidates [29], costs about 0.1 us.
  virtual Status capture_info(StreamHandle stream, CaptureInfo* info) noexcept = 0;

  // ---- Events
  virtual Status create_event(EventHandle* event, EventFlags flags = {}) noexcept = 0;
  /// Returns at once, also where the event's point is still to be reached [68].
  virtual Status destroy_event(EventHandle event) noexcept = 0;
  /// Recording again replaces the point [30]. On a capturing stream it becomes part of the graph instead [31].
  virtual Status record_event(EventHandle event, StreamHandle stream) noexcept = 0;
  /// Records the event behind all that the device has been given so far, by whomever and in whatever stream, also in
  /// those that this library has never heard of; nothing waits for it that does not ask [55]. While any stream of the
  /// device captures: `capture`, which invalidates the capture, whatever the thread's mode, and leaves the event as it
  /// was [56]. Captures that begin later are not touched [75]. A driver before CUDA 12.5 has no such event: then the
  /// call itself waits until all is done.
  virtual Status record_device(EventHandle event) noexcept = 0;
  /// ok when all work before the recorded point is done, or when nothing was ever recorded [32]; else not_ready [33].
  /// Unsafe in capture. Where the event was last recorded in a capture: capture while that goes on, which invalidates
  /// it [34], and invalid afterwards [35].
  virtual Status query_event(EventHandle event) noexcept = 0;
  /// Blocks until query_event would say ok [36]. Unsafe in capture.
  virtual Status synchronize_event(EventHandle event) noexcept = 0;
  /// The device's time from one point to the other; both are done (else not_ready) and made for timing (else invalid)
  /// [37]. Not unsafe in capture.
  virtual Status elapsed(EventHandle from, EventHandle to, std::chrono::nanoseconds* time) noexcept = 0;
  /// Work enqueued on the stream from now on starts after the event's point, as it is recorded now [38]. A stream that
  /// waits for a point in a capture joins that. One that captures and waits for a point outside of its capture:
  /// capture, which invalidates it [72].
  virtual Status wait_event(StreamHandle stream, EventHandle event) noexcept = 0;

  // ---- Work in stream order
  /// Returns before the copy is done where the host side is pinned, which is read when the copy runs [39]; from host to
  /// host it may not. Pageable host memory is staged: from it, the source may be reused on return [40]; to it, the call
  /// blocks [41]. One side must lie inside one registration as a whole [42], device memory inside one allocation [78].
  virtual Status copy(void* destination, const void* source, std::size_t bytes, CopyKind kind,
                      StreamHandle stream) noexcept = 0;
  /// The function runs when the stream gets there [70], on the one thread that runs the host functions of all streams
  /// and graphs, one after the other [43]. In it, events may be queried and synchronised with, elapsed() be asked and
  /// the capture mode be exchanged; all else is not_permitted [44], but for check_stream and device_address, which may
  /// need no call.
  virtual Status launch_host_function(StreamHandle stream, void (*function)(void*), void* argument) noexcept = 0;

  // ---- Graph capture
  /// Sets the calling thread's mode and returns the one before (cudaThreadExchangeStreamCaptureMode) [45].
  virtual CaptureMode exchange_capture_mode(CaptureMode mode) noexcept = 0;
  /// While the stream captures: each launch records the event where the stream is now, behind what it was given before
  /// [60]. From the return of launch_graph on, query_event and wait_event go by that launch: the event is not ready
  /// before the point is reached, which may be long before the launch is done [61]. A stream that does not capture:
  /// capture [62]. The event lives as long as the graph and its executables.
  virtual Status record_event_in_graph(EventHandle event, StreamHandle stream) noexcept = 0;
  /// The graph takes over one reference to `object`; when the graph and every executable made from it are gone and
  /// their launched work is done, `release(object)` is called once [46], on any thread; it must not call the backend.
  virtual Status retain_in_graph(GraphHandle graph, void* object, void (*release)(void*)) noexcept = 0;

  // ---- Making graphs: not used by the library itself, but by its tests and by users of the simulated device
  /// Refused, and nothing is harmed, where the stream captures already [47].
  virtual Status begin_capture(StreamHandle stream, CaptureMode mode) noexcept = 0;
  /// On an invalidated capture, or one with a fork that was not joined [73]: capture, and no graph [48]. A thread that
  /// may not end the capture ends it all the same, without a graph [49]. A stream that does not capture: capture [50].
  virtual Status end_capture(StreamHandle stream, GraphHandle* graph) noexcept = 0;
  /// How many nodes the graph has [80].
  virtual Status graph_nodes(GraphHandle graph, std::size_t* count) noexcept = 0;
  /// Unsafe in capture [51].
  virtual Status instantiate_graph(GraphHandle graph, GraphExecHandle* exec) noexcept = 0;
  /// In the order of the stream [52], of whose queue each node takes a place. Branches are ordered by forks
  /// and joins alone, and run beside each other as streams do: one that stands still does not hold another [53]. On a
  /// stream that captures: capture, which invalidates the capture, whatever the thread's mode [79].
  virtual Status launch_graph(GraphExecHandle exec, StreamHandle stream) noexcept = 0;
  /// What was made from the graph, and launched, goes on [54]. After a loss the graphs go, and no error is told.
  virtual Status destroy_graph(GraphHandle graph) noexcept = 0;
  virtual Status destroy_graph_exec(GraphExecHandle exec) noexcept = 0;
};

}  // namespace thole::inline v0_1::detail
