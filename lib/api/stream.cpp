#include <thole/stream.hpp>

#include <string>
#include <utility>

#include <thole/event.hpp>

#include "api/handle_access.hpp"
#include "heap/collect.hpp"
#include "streams/host_functions.hpp"
#include "streams/stream_registry.hpp"
#include "streams/submission.hpp"

namespace thole {
namespace detail {
namespace {

Error out_of_memory(const char* call) {
  return Error(Errc::out_of_memory, std::string(call) + ": the system has no memory");
}

/// Not a call that waits or asks: only whether there is something to capture into.
Result<CaptureInfo> capture_of(DeviceCore& core, Timeline& timeline, const char* call) {
  CaptureInfo info;
  if (const Status status = core.note(core.backend->capture_info(timeline.native(), &info)); !status.ok())
    return tl::unexpected(core.error(status, call, "asking whether the stream captures"));
  return info;
}

}  // namespace

Result<Timeline*> HandleAccess::timeline(const StreamRef& stream, const char* call) {
  if (stream.device_ == nullptr)
    return tl::unexpected(Error(Errc::moved_from, std::string(call) + ": the stream has been moved from"));
  if (stream.timeline_->is_open(stream.id_)) return stream.timeline_;
  if (!stream.foreign_)
    return tl::unexpected(Error(Errc::invalid_argument,
                                std::string(call) + ": stream " + std::to_string(stream.id_) + " has been destroyed"));
  // Its handle value has been seen on another stream since, and this timeline was closed. CUDA gives no handle to two
  // living streams, so the view is stale.
  return tl::unexpected(Error(Errc::invalid_argument, std::string(call) + ": the view of native stream " +
                                                          std::to_string(stream.id_) +
                                                          " is stale: another stream has its handle now"));
}

void HandleAccess::bind(StreamRef& stream, std::shared_ptr<DeviceCore> core, void* native, std::uint64_t id,
                        bool foreign) {
  stream.timeline_ = &core->timelines->of(core, native, id, foreign);
  stream.device_ = std::move(core);
  stream.native_ = native;
  stream.id_ = id;
  stream.foreign_ = stream.timeline_->foreign();
}

Result<StreamRef> stream_from_native(const Device& device, void* native) noexcept try {
  constexpr const char* call = "from_native";
  const auto& core = HandleAccess::core(device);
  if (core->lost()) return tl::unexpected(core->lost_error(call));
  std::uint64_t id = 0;
  if (const Status status = core->note(core->backend->stream_id(native, &id)); !status.ok())
    return tl::unexpected(core->error(status, call, "asking for the stream's number"));
  if (const Status status = core->note(core->backend->check_stream(native)); !status.ok())
    return tl::unexpected(core->error(status, call, "asking whose stream it is"));
  return HandleAccess::view(core, native, id, true);
} catch (const std::bad_alloc&) {
  return tl::unexpected(out_of_memory("from_native"));
}

}  // namespace detail

using detail::HandleAccess;
using detail::Status;

StreamRef::~StreamRef() {
  // A stream of thole's own has ~Stream. Nobody else comes for a foreign one when the program's last handles go.
  if (foreign_ && device_ != nullptr && timeline_->has_work()) detail::watch_orphan(device_);
}

Device StreamRef::device() const {
  if (device_ == nullptr) throw Error(Errc::moved_from, "StreamRef::device: the stream has been moved from");
  return HandleAccess::device(device_);
}

void StreamRef::synchronize() const { detail::unwrap(try_synchronize()); }

Result<void> StreamRef::try_synchronize() const noexcept {
  constexpr const char* call = "Stream::synchronize";
  auto timeline = HandleAccess::timeline(*this, call);
  if (!timeline) return tl::unexpected(std::move(timeline.error()));
  if (device_->lost()) return tl::unexpected(device_->lost_error(call));
  auto capture = detail::capture_of(*device_, **timeline, call);
  if (!capture) return tl::unexpected(std::move(capture.error()));
  if (capture->state != detail::CaptureInfo::State::none)
    return tl::unexpected(Error(Errc::capturing, std::string(call) + ": a graph capture is going on in the stream"));
  const auto position = (*timeline)->issued();
  Status status;
  {
    const detail::CaptureGuard guard(*device_->backend);
    status = device_->note(device_->backend->synchronize_stream(native_));
  }
  if (!status.ok()) return tl::unexpected(device_->error(status, call, "waiting for the stream"));
  (*timeline)->finish(position);
  detail::collect_stream(**timeline);
  return {};
}

Event StreamRef::record() const {
  constexpr const char* call = "Stream::record";
  auto* const timeline = detail::unwrap(HandleAccess::timeline(*this, call));
  if (device_->lost()) throw device_->lost_error(call);
  detail::Ticket* ticket = nullptr;
  if (const Status status = timeline->record_ticket(&ticket); !status.ok()) {
    if (status.code == detail::StatusCode::capture)
      throw Error(Errc::capturing, std::string(call) + ": a graph capture is going on in the stream");
    throw device_->error(status, call, "recording an event");
  }
  return HandleAccess::event(device_, ticket);
}

void StreamRef::wait(const Event& event) const {
  constexpr const char* call = "Stream::wait";
  auto* const timeline = detail::unwrap(HandleAccess::timeline(*this, call));
  const detail::Ticket* const ticket = HandleAccess::ticket(event);
  if (ticket == nullptr) throw Error(Errc::moved_from, std::string(call) + ": the event has been moved from");
  if (device_->lost()) throw device_->lost_error(call);
  if (event.device().backend() != device().backend())
    throw Error(Errc::wrong_device, std::string(call) + ": the event is of another kind of device");
  if (ticket->timeline->done(ticket->position)) return;
  auto capture = detail::unwrap(detail::capture_of(*device_, *timeline, call));
  if (capture.state != detail::CaptureInfo::State::none)
    throw Error(Errc::capturing, std::string(call) +
                                     ": the stream captures a graph, which cannot wait for an event "
                                     "recorded outside of it");
  // What was copied before is finished before the wait is: its event goes in front.
  (void)timeline->cover_all();
  const Status status = ticket->timeline->order_before(*device_->backend, native_, ticket->position);
  if (status.ok()) return;
  if (auto* const other = ticket->timeline->device(); other->lost()) throw other->lost_error(call);
  throw device_->error(status, call, "waiting for an event");
}

void StreamRef::launch_host_function(std::function<void()> function) const {
  constexpr const char* call = "Stream::launch_host_function";
  auto work = detail::unwrap(HandleAccess::begin_work(*this, call));
  Status status;
  if (work.capturing()) {
    // A graph may run it many times: the graph owns it.
    auto owned = std::make_unique<std::function<void()>>(std::move(function));
    status = work.backend().retain_in_graph(work.graph(), owned.get(),
                                            [](void* f) { delete static_cast<std::function<void()>*>(f); });
    if (status.ok())
      status = work.backend().launch_host_function(
          native_, [](void* f) { (*static_cast<std::function<void()>*>(f))(); }, owned.release());
  } else {
    (void)work.timeline().cover_all();
    void* const kept = detail::keep_host_function(std::move(function));
    status = work.backend().launch_host_function(native_, detail::run_host_function, kept);
    if (!status.ok()) detail::drop_host_function(kept);
  }
  if (!status.ok()) throw work.error(status, "enqueueing a host function");
}

bool StreamRef::capturing() const {
  constexpr const char* call = "Stream::capturing";
  auto* const timeline = detail::unwrap(HandleAccess::timeline(*this, call));
  return detail::unwrap(detail::capture_of(*device_, *timeline, call)).state != detail::CaptureInfo::State::none;
}

NativeStream StreamRef::native() const {
  // Whoever asks may enqueue work of its own that is long: what was copied before does not wait for it.
  auto* const timeline = detail::unwrap(HandleAccess::timeline(*this, "Stream::native"));
  if (!device_->lost()) (void)timeline->cover_all();
  timeline->expose();
  return static_cast<NativeStream>(native_);
}

Stream::Stream(const Device& device) : Stream(detail::unwrap(try_make(device))) {}

Result<Stream> Stream::try_make(const Device& device) noexcept try {
  const auto& core = HandleAccess::core(device);
  if (core->lost()) return tl::unexpected(core->lost_error("Stream"));
  detail::DeviceBackend& backend = *core->backend;
  void* native = nullptr;
  if (const Status status = core->note(backend.create_stream(&native)); !status.ok())
    return tl::unexpected(core->error(status, "Stream", "creating a stream"));
  std::uint64_t id = 0;
  if (const Status status = core->note(backend.stream_id(native, &id)); !status.ok()) {
    (void)backend.destroy_stream(native);
    return tl::unexpected(core->error(status, "Stream", "asking for its number"));
  }
  Stream stream;
  try {
    HandleAccess::bind(stream, core, native, id, false);
  } catch (...) {
    (void)backend.destroy_stream(native);
    throw;
  }
  return stream;
} catch (const std::bad_alloc&) {
  return tl::unexpected(detail::out_of_memory("Stream"));
}

Stream::Stream(Stream&& other) noexcept : StreamRef(std::move(other)) { other.id_ = 0; }

Stream& Stream::operator=(Stream&& other) noexcept {
  Stream moved(std::move(other));
  std::swap(static_cast<StreamRef&>(*this), static_cast<StreamRef&>(moved));
  return *this;
}

Stream::~Stream() {
  if (device_ == nullptr) return;
  if (!device_->lost()) {
    // The last event: whoever waits for anything in this stream waits for it. A driver may refuse one call and take the
    // next.
    Status status = timeline_->record();
    if (!status.ok()) status = timeline_->record();
    if (!status.ok()) {
      device_->keep_error(status, "~Stream", "recording its last event");
      // Without an event the memory in use could never come back: rather keep the stream, so that one can be recorded
      // later.
      if (!device_->lost() && !timeline_->cover_all().ok()) return;
    }
  }
  device_->timelines->close(*timeline_);
  timeline_->wait_for_visits();
  if (const Status status = device_->backend->destroy_stream(native_); !status.ok())
    device_->keep_error(status, "~Stream", "destroying the stream");
  detail::collect_some(*timeline_);
  if (timeline_->has_work()) detail::watch_orphan(device_);
}

}  // namespace thole
