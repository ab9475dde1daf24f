#pragma once

// The library's own door into the public handles.

#include <memory>

#include <thole/device.hpp>
#include <thole/event.hpp>
#include <thole/stream.hpp>

#include "backend/device_core.hpp"
#include "streams/submission.hpp"
#include "streams/timeline.hpp"

namespace thole::detail {

struct HandleAccess {
  static const std::shared_ptr<DeviceCore>& core(const Device& device) noexcept { return device.core_; }
  static const std::shared_ptr<DeviceCore>& core(const StreamRef& stream) noexcept { return stream.device_; }
  static Device device(std::shared_ptr<DeviceCore> core) noexcept { return Device(std::move(core)); }

  /// The stream's timeline, or the Error of a stream that is gone or was moved from. `call` names who asks.
  static Result<Timeline*> timeline(const StreamRef& stream, const char* call);
  /// One piece of work in the stream, from before it is enqueued; fails as timeline().
  static Result<Submission> begin_work(const StreamRef& stream, const char* call) noexcept {
    auto found = timeline(stream, call);
    if (!found) return tl::unexpected(std::move(found.error()));
    return Submission::begin(*core(stream), **found, call);
  }
  /// The raw handle, for whoever only looks at the stream: nothing is recorded. Throws as timeline().
  static StreamHandle raw(const StreamRef& stream, const char* call) {
    (void)unwrap(timeline(stream, call));
    return stream.native_;
  }
  /// A view of the stream; the device has seen or sees it now.
  static void bind(StreamRef& stream, std::shared_ptr<DeviceCore> core, StreamHandle native, std::uint64_t id,
                   bool foreign);
  static StreamRef view(std::shared_ptr<DeviceCore> core, StreamHandle native, std::uint64_t id, bool foreign) {
    StreamRef stream;
    bind(stream, std::move(core), native, id, foreign);
    return stream;
  }
  static Event event(std::shared_ptr<DeviceCore> core, Ticket* ticket) noexcept {
    Event event;
    event.device_ = std::move(core);
    event.ticket_ = ticket;
    return event;
  }
  static Ticket* ticket(const Event& event) noexcept { return event.ticket_; }
};

}  // namespace thole::detail
