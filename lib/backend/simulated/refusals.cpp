#include "backend/simulated/refusals.hpp"

#include <array>
#include <cstddef>

namespace thole::inline v0_1::detail::simulated {

namespace {

struct Entry {
  StatusCode code;
  std::string_view text;
};

// In the order of Refusal.
constexpr std::array entries{
    Entry{StatusCode::ok, "simulatedSuccess: no error"},
    Entry{StatusCode::not_ready, "simulatedErrorNotReady: the work is still to be done"},
    Entry{StatusCode::out_of_memory, "simulatedErrorMemoryAllocation: out of memory"},
    Entry{StatusCode::out_of_memory, "simulatedErrorPinnedLimit: the limit on pinned memory is reached"},
    Entry{StatusCode::invalid, "simulatedErrorInvalidValue: invalid argument"},
    Entry{StatusCode::invalid, "simulatedErrorInvalidResourceHandle: no such stream, event or graph"},
    Entry{StatusCode::invalid, "simulatedErrorInvalidValue: the host memory is not inside one registration"},
    Entry{StatusCode::invalid, "simulatedErrorInvalidValue: the device would write host memory that is read-only"},
    Entry{StatusCode::invalid, "simulatedErrorInvalidValue: the device memory is not inside one allocation"},
    Entry{StatusCode::invalid, "simulatedErrorHostMemoryAlreadyRegistered: part of the memory is already registered"},
    Entry{StatusCode::invalid, "simulatedErrorHostMemoryNotRegistered: the memory is not registered"},
    Entry{StatusCode::capture, "simulatedErrorStreamCaptureUnsupported: not permitted while a stream captures"},
    Entry{StatusCode::capture, "simulatedErrorStreamCaptureInvalidated: an earlier error has invalidated the capture"},
    Entry{StatusCode::capture, "simulatedErrorStreamCaptureMerge: the call would merge two captures"},
    Entry{StatusCode::capture, "simulatedErrorStreamCaptureIsolation: a dependency crosses the border of the capture"},
    Entry{StatusCode::capture, "simulatedErrorStreamCaptureUnjoined: a forked stream was not joined to the capture's"},
    Entry{StatusCode::capture, "simulatedErrorStreamCaptureUnmatched: the capture was not begun in this stream"},
    Entry{StatusCode::capture, "simulatedErrorStreamCaptureWrongThread: the capture was begun by another thread"},
    Entry{StatusCode::capture, "simulatedErrorStreamCaptureImplicit: the legacy stream would join a thread's capture"},
    Entry{StatusCode::capture, "simulatedErrorCapturedEvent: the event was last recorded in a capturing stream"},
    Entry{StatusCode::capture, "simulatedErrorIllegalState: the stream captures already, or it does not capture"},
    Entry{StatusCode::not_permitted, "simulatedErrorNotPermitted: no such call may be made in a host function"},
    Entry{StatusCode::wrong_device, "simulatedErrorInvalidContext: the stream belongs to another device"},
    Entry{StatusCode::device_lost, "simulatedErrorDeviceLost: the device has failed for good"},
    Entry{StatusCode::device_lost, "simulatedErrorDeviceLost: the device was made by another process"},
    Entry{StatusCode::failed, "simulatedErrorRequested: Simulation::fail_call asked for this failure"},
};
static_assert(entries.size() == static_cast<std::size_t>(Refusal::requested) + 1);

}  // namespace

Status refuse(Refusal why) noexcept { return {entries[static_cast<std::size_t>(why)].code, static_cast<int>(why)}; }

std::string_view refusal_text(int native) noexcept {
  const auto index = static_cast<std::size_t>(native);
  return index < entries.size() ? entries[index].text : std::string_view("simulatedErrorUnknown: unknown error");
}

}  // namespace thole::inline v0_1::detail::simulated
