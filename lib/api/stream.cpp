#include <thole/stream.hpp>

#include <new>
#include <string>
#include <utility>

#include <thole/event.hpp>

#include "api/handle_access.hpp"
#include "base/deadline.hpp"
#include "base/host_function.hpp"
#include "heap/collect.hpp"
#include "streams/host_functions.hpp"
#include "streams/stream_registry.hpp"
#include "streams/watcher.hpp"

namespace thole::inline v0_1 {
namespace detail {
namespace {

tl::unexpected<Error> capturing_error(const char* call, const char* why) {
  return tl::unexpected(Error::make(Errc::capturing, [&] { return std::string(call) + ": " + why; }));
}

// CUDA: "Stream Management": the handle of the default stream that each thread has for itself, also of the simulated
// device.
const StreamHandle per_thread_stream = reinterpret_cast<StreamHandle>(2);

}  // namespace

Result<StreamRef> stream_from_native(const Device& device, void* native) noexcept try {
  constexpr const char* call = "from_native";
  const auto& core = HandleAccess::core(device);
  if (core == nullptr) return tl::unexpected(moved_from(call, "the device"));
  if (core->lost()) return tl::unexpected(core->lost_error(call));
  // Before its number: that question would be the end of a capture that the stream is in.
  CaptureInfo capture;
  const Status asked = core->note(core->backend->capture_info(native, &capture));
  if (asked.code == StatusCode::not_permitted)
    return tl::unexpected(core->error(asked, call, "asking whether the stream captures"));
  if (const Status status = core->note(core->backend->check_stream(native)); !status.ok())
    return tl::unexpected(core->error(status, call, "asking whose stream it is"));
  const auto kind = native == per_thread_stream ? Timeline::Kind::of_thread : Timeline::Kind::foreign;
  if (asked.code == StatusCode::capture) {  // the legacy default stream, in a capture that it would wait for
    if (auto known = core->streams->known_legacy(); known != nullptr) return HandleAccess::view(std::move(known));
    return capturing_error(call, "a graph capture is going on that the default stream may not be used in");
  }
  if (asked.ok() && capture.state != CaptureInfo::State::none)
    return HandleAccess::view(core->streams->of_capturing(core, native, capture.id, kind));
  if (!asked.ok()) return tl::unexpected(core->error(asked, call, "asking whether the stream captures"));
  std::uint64_t id = 0;
  if (const Status status = core->note(core->backend->stream_id(native, &id)); !status.ok())
    return tl::unexpected(core->error(status, call, "asking for the stream's number"));
  return HandleAccess::view(core->streams->of(core, native, id, kind));
} catch (const std::bad_alloc&) {
  return tl::unexpected(no_system_memory("from_native"));
}

}  // namespace detail

using detail::HandleAccess;
using detail::Status;
using detail::StatusCode;

Device StreamRef::device() const {
  if (timeline_ == nullptr) throw Error(Errc::moved_from, "StreamRef::device: the stream has been moved from");
  return HandleAccess::device(timeline_->device());
}

void StreamRef::synchronize() const {
  constexpr const char* call = "Stream::synchronize";
  detail::Timeline& timeline = *detail::unwrap(HandleAccess::live_timeline(*this, call));
  if (const Status status = timeline.synchronize(); !status.ok()) {
    if (status.code == StatusCode::capture && status.native == 0)
      throw detail::capturing_error(call, "a graph capture is going on in the stream").value();
    throw timeline.device()->error(status, call, "waiting for the stream");
  }
  detail::collect_stream(timeline);
}

Result<void> StreamRef::synchronize_for(std::chrono::nanoseconds timeout) const noexcept {
  constexpr const char* call = "Stream::synchronize_for";
  auto timeline = HandleAccess::live_timeline(*this, call);
  if (!timeline) return tl::unexpected(std::move(timeline.error()));
  const auto deadline = detail::end_of_wait(timeout);
  detail::CaptureInfo capture;
  Status status;
  // An event could have to wait for room in a full queue, and that wait has no end. One of a capture has not.
  if ((*timeline)->capture_info(&capture).ok() && capture.state == detail::CaptureInfo::State::none)
    status = (*timeline)->wait_for_room(deadline);
  if (status.ok()) {
    auto end = try_record();
    if (!end) return tl::unexpected(std::move(end.error()));
    status = (*timeline)->wait(HandleAccess::ticket(*end), deadline);
  }
  if (status.code == StatusCode::not_ready)
    return tl::unexpected(
        Error::make(Errc::timed_out, [&] { return std::string(call) + ": the stream is not done in the given time"; }));
  const auto& device = (*timeline)->device();
  if (device->lost()) return tl::unexpected(device->lost_error(call));
  if (!status.ok()) return tl::unexpected(device->error(status, call, "waiting for the stream"));
  detail::collect_stream(*timeline_);
  return {};
}

Event StreamRef::record(const EventOptions& options) const { return detail::unwrap(try_record(options)); }

Result<Event> StreamRef::try_record(const EventOptions& options) const noexcept {
  constexpr const char* call = "Stream::record";
  auto timeline = HandleAccess::live_timeline(*this, call);
  if (!timeline) return tl::unexpected(std::move(timeline.error()));
  const detail::Timeline::Call going_on(**timeline);
  detail::Ticket* ticket = nullptr;
  detail::CaptureInfo capture;
  Status status = (*timeline)->capture_info(&capture);
  if (status.ok() && capture.state == detail::CaptureInfo::State::active)
    status = (*timeline)->record_captured(capture.id, &ticket);
  else if (status.ok())
    status = (*timeline)->record(&ticket, options.timing);
  if (status.ok()) return HandleAccess::event(timeline_, ticket);
  if (status.code == StatusCode::capture)
    return detail::capturing_error(call, "a graph capture is going on in the stream, and has been invalidated");
  return tl::unexpected((*timeline)->device()->error(status, call, "recording an event"));
}

void StreamRef::wait(const Event& event) const { detail::unwrap(try_wait(event)); }

namespace {

/// Whether `waiter`, which captures what `capture` says, may wait for an event that was recorded in a capture.
Result<void> check_fork(const detail::Timeline& waiter, const detail::CaptureInfo& capture, detail::Timeline& recorded,
                        std::uint64_t id, const char* call) noexcept {
  detail::CaptureInfo theirs;
  if (const Status status = recorded.capture_info(&theirs); !status.ok())
    return tl::unexpected(recorded.device()->error(status, call, "asking whether the event's stream captures"));
  if (theirs.state != detail::CaptureInfo::State::active || theirs.id != id)
    return detail::capturing_error(call, "the event was recorded in a graph capture that has ended");
  if (capture.state != detail::CaptureInfo::State::none && capture.id != id)
    return detail::capturing_error(call, "the stream and the event take part in two graph captures");
  if (waiter.device() != recorded.device())
    return tl::unexpected(Error::make(Errc::wrong_device, [&] {
      return std::string(call) + ": the event was recorded in a graph capture on another device";
    }));
  return {};
}

Status keep_in_graph(detail::Submission& work, detail::GraphHandle graph, detail::HostFunction* function) noexcept {
  detail::keep_in_graph(function);
  const Status status = work.backend().retain_in_graph(graph, function, detail::release_from_graph);
  if (!status.ok()) detail::release_from_graph(function);
  return status;
}

}  // namespace

Result<void> StreamRef::try_wait(const Event& event) const noexcept {
  constexpr const char* call = "Stream::wait";
  auto found = HandleAccess::live_timeline(*this, call);
  if (!found) return tl::unexpected(std::move(found.error()));
  detail::Timeline& timeline = **found;
  detail::Timeline* const other = HandleAccess::timeline(event);
  if (other == nullptr)
    return tl::unexpected(
        Error::make(Errc::moved_from, [&] { return std::string(call) + ": the event has been moved from"; }));
  const detail::Ticket& ticket = *HandleAccess::ticket(event);
  if (ticket.done.load(std::memory_order_acquire)) return {};  // pairs with Timeline::complete()
  detail::DeviceCore& device = *timeline.device();
  if (other->device()->backend->simulated() != device.backend->simulated())
    return tl::unexpected(Error::make(Errc::wrong_device,
                                      [&] { return std::string(call) + ": the event is of another kind of device"; }));
  const detail::Timeline::Call going_on(timeline);
  detail::CaptureInfo capture;
  if (const Status status = timeline.capture_info(&capture); !status.ok())
    return tl::unexpected(device.error(status, call, "asking whether the stream captures"));
  if (ticket.capture != 0) {
    if (auto fork = check_fork(timeline, capture, *other, ticket.capture, call); !fork) return fork;
  } else if (capture.state != detail::CaptureInfo::State::none) {
    return detail::capturing_error(
        call, "the stream captures a graph, which cannot wait for an event recorded outside of it");
  }
  // What was copied before is finished before the wait is: its event goes in front. In a capture there can be none, and
  // from then on that is asked for.
  if (capture.state == detail::CaptureInfo::State::none) (void)timeline.cover_all();
  if (ticket.capture != 0) timeline.expose();
  const Status status = other->order_before(timeline, HandleAccess::ticket(event));
  if (status.ok() && ticket.capture == 0) timeline.record_if_due(0);
  if (status.ok() && ticket.capture != 0 && capture.state == detail::CaptureInfo::State::none)
    timeline.be_branch_of(ticket.capture);
  if (status.ok()) return {};
  if (other->device()->lost()) return tl::unexpected(other->device()->lost_error(call));
  return tl::unexpected(device.error(status, call, "waiting for an event"));
}

void StreamRef::launch_host_function(std::function<void()> function) const {
  detail::unwrap(try_launch_host_function(std::move(function)));
}

Result<void> StreamRef::launch_kept(std::shared_ptr<void> function, void (*run)(void*)) const noexcept try {
  if (run == nullptr) return try_launch_host_function(std::function<void()>());  // an empty one
  return try_launch_host_function([function = std::move(function), run] { run(function.get()); });
} catch (const std::bad_alloc&) {
  return tl::unexpected(detail::no_system_memory("Stream::launch_host_function"));
}

Result<void> StreamRef::try_launch_host_function(std::function<void()> function) const noexcept try {
  constexpr const char* call = "Stream::launch_host_function";
  auto begun = HandleAccess::begin_work(*this, call);
  if (!begun) return tl::unexpected(std::move(begun.error()));
  if (function == nullptr)  // it would end the process when the stream gets there
    return tl::unexpected(
        Error::make(Errc::invalid_argument, [&] { return std::string(call) + ": there is no function in it"; }));
  detail::Submission& work = *begun;
  work.expect_long_work();
  detail::HostFunction* const kept = detail::keep_host_function(std::move(function));
  struct Hold {  // it may have run, and its graph be gone, before this call ends
    detail::HostFunction* function;
    explicit Hold(detail::HostFunction* f) noexcept : function(f) { detail::keep_in_graph(f); }
    ~Hold() { detail::release_from_graph(function); }
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;
  } const hold(kept);
  Status status = work.capturing() ? keep_in_graph(work, work.graph(), kept) : Status{};
  if (status.ok()) status = work.backend().launch_host_function(timeline_->native(), detail::run_host_function, kept);
  if (!status.ok()) {
    detail::leave_stream(kept);
    return tl::unexpected(work.error(status, "enqueueing a host function"));
  }
  timeline_->note_unseen();  // what is freed in the stream's order comes after it
  if (!work.capturing()) timeline_->count_without_position();
  // A capture may have begun or ended on another thread since the first question: then the graph and the stream keep
  // it.
  detail::CaptureInfo after;
  const detail::Submission::Since since = work.look_again(&after);
  if (since == detail::Submission::Since::same && work.capturing()) detail::leave_stream(kept);
  if (since == detail::Submission::Since::begun && !keep_in_graph(work, after.graph, kept).ok())
    detail::keep_in_graph(kept);  // for good, rather than run after its end
  if (since == detail::Submission::Since::unknown) detail::keep_in_graph(kept);
  if (!work.capturing()) timeline_->record_if_due(0);
  return {};
} catch (const std::bad_alloc&) {
  return tl::unexpected(detail::no_system_memory("Stream::launch_host_function"));
}

std::uint64_t StreamRef::id() const {
  if (timeline_ == nullptr) throw Error(Errc::moved_from, "StreamRef::id: the stream has been moved from");
  return timeline_->id();
}

int StreamRef::priority() const {
  constexpr const char* call = "StreamRef::priority";
  detail::Timeline& timeline = *detail::unwrap(HandleAccess::live_timeline(*this, call));
  const detail::Timeline::Call going_on(timeline);
  detail::DeviceCore& device = *timeline.device();
  int priority = 0;
  if (const Status status = device.note(device.backend->stream_priority(timeline.native(), &priority)); !status.ok())
    throw device.error(status, call, "asking for the stream's priority");
  return priority;
}

bool StreamRef::capturing() const {
  constexpr const char* call = "Stream::capturing";
  detail::Timeline& timeline = *detail::unwrap(HandleAccess::live_timeline(*this, call));
  const detail::Timeline::Call going_on(timeline);
  detail::CaptureInfo info;
  if (const Status status = timeline.capture_info(&info); !status.ok())
    throw timeline.device()->error(status, call, "asking whether the stream captures");
  return info.state != detail::CaptureInfo::State::none;
}

NativeStream StreamRef::native() const {
  // Whoever asks may enqueue work of its own that is long: what was copied before does not wait for it.
  detail::Timeline& timeline = *detail::unwrap(HandleAccess::timeline(*this, "Stream::native"));
  if (timeline.device()->of_another_process()) throw timeline.device()->lost_error("Stream::native");
  if (!timeline.device()->lost()) (void)timeline.cover_all();
  timeline.give_away();
  return static_cast<NativeStream>(timeline.native());
}

Stream::Stream(const Device& device, const StreamOptions& options)
    : Stream(detail::unwrap(try_make(device, options))) {}

Result<Stream> Stream::try_make(const Device& device, const StreamOptions& options) noexcept try {
  const auto& core = HandleAccess::core(device);
  if (core == nullptr) return tl::unexpected(detail::moved_from("Stream", "the device"));
  if (core->lost()) return tl::unexpected(core->lost_error("Stream"));
  detail::DeviceBackend& backend = *core->backend;
  void* native = nullptr;
  if (const Status status = core->note(backend.create_stream(&native, options.priority)); !status.ok())
    return tl::unexpected(core->error(status, "Stream", "creating a stream"));
  std::uint64_t id = 0;
  if (const Status status = core->note(backend.stream_id(native, &id)); !status.ok()) {
    (void)backend.destroy_stream(native);
    return tl::unexpected(core->error(status, "Stream", "asking for its number"));
  }
  Stream stream;
  try {
    stream.timeline_ = core->streams->of(core, native, id, detail::Timeline::Kind::own);
    stream.timeline_->stock_up();
  } catch (...) {
    (void)backend.destroy_stream(native);
    throw;
  }
  return stream;
} catch (const std::bad_alloc&) {
  return tl::unexpected(detail::no_system_memory("Stream"));
}

Stream& Stream::operator=(Stream&& other) noexcept {
  Stream moved(std::move(other));
  std::swap(timeline_, moved.timeline_);
  return *this;
}

Stream::~Stream() {
  if (timeline_ == nullptr || timeline_->device()->of_another_process()) return;
  const auto device = timeline_->device();
  device->streams->end(timeline_);
  if (!timeline_->has_work()) return;
  if (!detail::in_host_function()) detail::collect_some(*timeline_);
  if (timeline_->has_work()) detail::watch(device);
}

}  // namespace thole::inline v0_1
