#pragma once

// CUDA graphs as handles. What thole's calls in a capture use, each launch uses: it is ordered as any work is, and a
// borrow waits for it.
//
//     thole::Graph graph = thole::capture(stream, [&] {
//       in.async_to_device(stream, memory.span());
//       thole::use_on(stream, thole::writes(memory), kernel);
//       out.async_from_device(stream, memory.span());
//     });
//     thole::GraphExec exec = graph.instantiate();
//     for (auto& frame : frames) {
//       std::ranges::copy(frame, in.borrow_mut().begin());  // waits for the launch before
//       exec.launch(stream);
//       use(out.borrow());  // waits for this one
//     }

#include <functional>
#include <type_traits>
#include <utility>

#include <thole/detail/std_parts.hpp>
#include <thole/device.hpp>
#include <thole/error.hpp>
#include <thole/export.hpp>
#include <thole/stream.hpp>
#include <thole/use_on.hpp>

struct CUgraph_st;  // what cudaGraph_t and cudaGraphExec_t point to, so that no CUDA header is needed here
struct CUgraphExec_st;

namespace thole::inline v0_1 {

/// Raw handles: a `cudaGraph_t` and a `cudaGraphExec_t` on a GPU; opaque on a simulated device.
using NativeGraph = ::CUgraph_st*;
using NativeGraphExec = ::CUgraphExec_st*;

/// When a buffer that a launch writes can be read.
enum class Completion {
  whole_launch,  ///< when the launch is done
  each_write,    ///< when what writes it is done, while the launch goes on
};
using enum Completion;

/// What a graph is captured with.
/// Thread safety: plain data.
struct CaptureOptions {
  /// `each_write` puts an event behind each piece of work in the capture that writes pinned memory: a launch takes
  /// longer by about what an event costs for each. `borrow()`, and work on other streams that reads, then wait for the
  /// writes of that buffer; `borrow_mut()` waits for the launch, as always. CUDA: "Event Management",
  /// cudaEventRecordWithFlags. That such an event is not ready from a launch on is not said there: it was seen on an
  /// H100, and `tests/gpu-run suite` asks any other machine.
  Completion completion = whole_launch;
};

namespace detail {
class GraphUses;
class GraphCapture;
struct LaunchPlan;
THOLE_EXPORT Result<void> launch_native(const StreamRef& stream, NativeGraphExec exec) noexcept;
}  // namespace detail

/// An executable graph; move-only. Made by `Graph::instantiate()`; lives without its graph, which it outlives or not.
/// It keeps all the memory that was captured. Destroying it returns at once; a launch that goes on still completes.
///
/// Thread safety: const members of one object may be called by many threads at once; others need exclusive access.
class [[nodiscard]] THOLE_EXPORT GraphExec {
 public:
  GraphExec(GraphExec&& other) noexcept;
  GraphExec& operator=(GraphExec&& other) noexcept;
  ~GraphExec();

  /// Of the graph that it was made of.
  Device device() const;
  /// Enqueues the graph's work in the stream, as one use of all that was captured, each in its direction, with one
  /// event: it comes after the earlier uses on whatever streams that it must come after, and `borrow_mut()` afterwards
  /// waits for this launch and for nothing behind it (see `CaptureOptions` for what reads). Returns at once. Throws
  /// `Error`, and nothing is launched then: `borrowed` where a borrow forbids one of the uses, `capturing` in a
  /// capture, which CUDA allows no launch, `wrong_device` where the stream is of another kind of device, `device_lost`,
  /// `moved_from`, `out_of_memory`.
  void launch(const StreamRef& stream) { detail::unwrap(try_launch(stream)); }
  /// As `launch`, without throwing.
  [[nodiscard]] Result<void> try_launch(const StreamRef& stream) noexcept;
  /// The raw handle. Launches of it that the program makes itself are not seen: see `thole::launch` below.
  NativeGraphExec native() const;

 private:
  friend class Graph;
  GraphExec() = default;
  std::shared_ptr<detail::DeviceCore> core_;  // nullptr: moved from
  NativeGraphExec exec_ = nullptr;
  std::shared_ptr<detail::LaunchPlan> plan_;
};

/// A captured graph; move-only. It keeps all the memory that was captured.
///
/// Thread safety: const members of one object may be called by many threads at once; others need exclusive access.
class [[nodiscard]] THOLE_EXPORT Graph {
 public:
  /// What `instantiate` makes.
  using Executable = GraphExec;

  /// Takes over a graph that the program captured in a stream of that device, or made: it is destroyed with this
  /// object. What thole's calls in that capture used is known; other memory that its nodes name is the program's to
  /// order, or to name in `thole::launch`. Where several captures went into it, what all of them used is. Throws
  /// std::bad_alloc, and destroys the graph then; `Error` with `moved_from` for such a device, and the graph stays the
  /// caller's.
  static Graph from_native(const Device& device, NativeGraph graph);
  Graph(Graph&& other) noexcept;
  Graph& operator=(Graph&& other) noexcept;
  ~Graph();

  /// Of the stream that it was captured in.
  Device device() const;
  /// An executable of it, as it is now; any number. May take milliseconds. Throws `Error`: `device_error`,
  /// `device_lost`, `moved_from`, `out_of_memory`.
  GraphExec instantiate() const { return detail::unwrap(try_instantiate()); }
  /// As `instantiate`, without throwing.
  [[nodiscard]] Result<GraphExec> try_instantiate() const noexcept;
  /// The raw handle; owned by this object.
  NativeGraph native() const;

 private:
  friend class detail::GraphCapture;
  Graph() = default;
  std::shared_ptr<detail::DeviceCore> core_;  // nullptr: moved from
  NativeGraph graph_ = nullptr;
  std::shared_ptr<detail::GraphUses> uses_;  // nullptr: none that thole knows
};

namespace detail {

/// A capture that goes on; one that nobody ends comes to nothing.
class THOLE_EXPORT GraphCapture {
 public:
  static Result<GraphCapture> begin(const StreamRef& stream, const CaptureOptions& options) noexcept;
  GraphCapture(GraphCapture&& other) noexcept
      : stream_(std::exchange(other.stream_, nullptr)), uses_(std::move(other.uses_)) {}
  GraphCapture& operator=(GraphCapture&&) = delete;
  ~GraphCapture();
  Result<Graph> end() noexcept;

 private:
  explicit GraphCapture(std::shared_ptr<Timeline> stream) noexcept : stream_(std::move(stream)) {}
  std::shared_ptr<Timeline> stream_;  // nullptr: it has ended
  std::shared_ptr<GraphUses> uses_;
};

}  // namespace detail

/// Runs `f()` while the stream is captured, and returns the graph: nothing of what `f` enqueues in the stream, through
/// thole or by itself, happens before a launch. Other streams take part from the `wait()` on that makes them wait for
/// an event which was recorded in the capture; each must be joined again by a `wait()` of this one. What `f` throws
/// ends the capture and passes through.
///
/// Copies and `use_on` in the capture name what each launch uses, and the graph keeps that memory; a buffer may be
/// dropped at any time. Device memory that is made in the capture is there from then on. Nothing that thole does on any
/// thread disturbs the capture. Its mode is thread-local, as cudaStreamBeginCapture says. Throws `Error`: `capturing`
/// where the stream is captured already, or where something has invalidated the capture, `device_lost`, `moved_from`.
template <class F>
[[nodiscard]] Result<Graph> try_capture(const StreamRef& stream, F&& f, const CaptureOptions& options = {}) {
  auto capture = detail::GraphCapture::begin(stream, options);
  if (!capture) return tl::unexpected(std::move(capture.error()));
  std::invoke(std::forward<F>(f));
  return capture->end();
}
template <class F>
Graph capture(const StreamRef& stream, F&& f, const CaptureOptions& options = {}) {
  return detail::unwrap(try_capture(stream, std::forward<F>(f), options));
}

/// Launches a graph that was made elsewhere, by a library or by the program, as one use of what is named:
/// `launch(exec, stream, reads(a), writes(b), ...)`. All else as `thole::use_on`, and a failed launch is
/// `device_error`.
template <class... Pointers>
[[nodiscard]] Result<void> try_launch(NativeGraphExec exec, const StreamRef& stream,
                                      detail::Listed<Pointers>... uses) noexcept {
  static_assert(sizeof...(Pointers) > 0, "launch(exec, stream, reads(a), writes(b), ...)");
  Result<void> launched;
  auto used = try_use_on(stream, std::move(uses)...,
                         [&](Pointers..., NativeStream) { launched = detail::launch_native(stream, exec); });
  return used ? launched : used;
}
template <class... Pointers>
void launch(NativeGraphExec exec, const StreamRef& stream, detail::Listed<Pointers>... uses) {
  detail::unwrap(try_launch(exec, stream, std::move(uses)...));
}
/// The same for uses that are known at run time.
[[nodiscard]] inline Result<void> try_launch(NativeGraphExec exec, const StreamRef& stream, const UseList& uses) {
  Result<void> launched;
  auto used = uses.try_run_on(stream, [&](NativeStream) { launched = detail::launch_native(stream, exec); });
  return used ? launched : used;
}
inline void launch(NativeGraphExec exec, const StreamRef& stream, const UseList& uses) {
  detail::unwrap(try_launch(exec, stream, uses));
}

}  // namespace thole::inline v0_1
