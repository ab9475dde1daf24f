#pragma once

// The library's own door into the public handles.

#include <memory>
#include <string>
#include <utility>

#include <thole/device.hpp>
#include <thole/event.hpp>
#include <thole/stream.hpp>

#include "backend/device_core.hpp"
#include "base/host_function.hpp"
#include "streams/submission.hpp"
#include "streams/timeline.hpp"

namespace thole::inline v0_1::detail {

/// The Error of a call that would need the device, or wait for it, in a function that the device has called.
inline Error host_function_error(const char* call) {
  return Error::make(Errc::device_error, [&] {
    return std::string(call) +
           ": NotPermitted: the device has called the function that this call is in (launch_host_function, or launch's "
           "function for the CPU), which may neither use the device nor wait for it; Event::on_ready runs what may";
  });
}

struct HandleAccess {
  static const std::shared_ptr<DeviceCore>& core(const Device& device) noexcept { return device.core_; }
  static Device device(std::shared_ptr<DeviceCore> core) noexcept { return Device(std::move(core)); }

  /// The stream's timeline; nullptr when the handle was moved from.
  static const std::shared_ptr<Timeline>& shared(const StreamRef& stream) noexcept { return stream.timeline_; }
  /// The stream's timeline, or the Error of a stream that is gone, was moved from, or belongs to another thread. `call`
  /// names who asks.
  static Result<Timeline*> timeline(const StreamRef& stream, const char* call) noexcept {
    Timeline* const found = stream.timeline_.get();
    if (found == nullptr)
      return tl::unexpected(
          Error::make(Errc::moved_from, [&] { return std::string(call) + ": the stream has been moved from"; }));
    if (found->is_usable() && !found->of_another_thread()) [[likely]]
      return found;
    const auto named = [&] { return std::string(call) + ": stream " + std::to_string(found->id()); };
    if (found->of_another_thread())
      return tl::unexpected(Error::make(Errc::invalid_argument, [&] {
        return named() + " is the per-thread default stream of another thread, which alone may use it";
      }));
    // A foreign one's handle value has been seen on another stream since. CUDA gives no handle to two living streams.
    // One whose number nobody knows was seen in a capture, and is not known any more when that has ended.
    return tl::unexpected(Error::make(Errc::invalid_argument, [&] {
      if (found->foreign() && found->id() == 0)
        return std::string(call) + ": this view was made in a graph capture that has ended; make another one";
      return named() +
             (found->foreign() ? " is gone: another stream has its native handle now" : " has been destroyed");
    }));
  }
  /// As timeline(), and the Error of a device that is lost.
  static Result<Timeline*> live_timeline(const StreamRef& stream, const char* call) noexcept {
    auto found = timeline(stream, call);
    if (found && (*found)->device()->lost()) return tl::unexpected((*found)->device()->lost_error(call));
    if (found && in_host_function()) return tl::unexpected(host_function_error(call));
    return found;
  }
  /// One piece of work in the stream, from before it is enqueued; fails as timeline().
  static Result<Submission> begin_work(const StreamRef& stream, const char* call,
                                       Submission::Of of = Submission::Of::work) noexcept {
    auto found = timeline(stream, call);
    if (!found) return tl::unexpected(std::move(found.error()));
    if (in_host_function()) return tl::unexpected(host_function_error(call));
    return Submission::begin(**found, call, of);
  }
  /// The raw handle, for whoever only looks at the stream: nothing is recorded. Throws as timeline().
  static StreamHandle raw(const StreamRef& stream, const char* call) {
    return unwrap(timeline(stream, call))->native();
  }
  static StreamRef view(std::shared_ptr<Timeline> timeline) noexcept {
    StreamRef stream;
    stream.timeline_ = std::move(timeline);
    return stream;
  }
  static Event event(std::shared_ptr<Timeline> timeline, Ticket* ticket) noexcept {
    Event event;
    event.timeline_ = std::move(timeline);
    event.ticket_ = ticket;
    return event;
  }
  static Timeline* timeline(const Event& event) noexcept { return event.timeline_.get(); }
  static Ticket* ticket(const Event& event) noexcept { return event.ticket_; }
};

}  // namespace thole::inline v0_1::detail
