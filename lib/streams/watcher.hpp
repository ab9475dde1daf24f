#pragma once

// The library's own thread: it collects from devices for which nobody else may come, until nothing waits on them, and
// has others tidy up behind them. It starts when it is first wanted, sleeps while there is nothing to do, and is never
// joined.

#include <atomic>
#include <memory>

#include "backend/device_core.hpp"

namespace thole::inline v0_1::detail {

/// Has the thread collect from the device until nothing waits on it; the device lives as long. Never throws or blocks;
/// where no thread can be had, the next call that collects does it. `keenly`: for
/// HeapOptions::background_reclaim, looks more often while nothing is found (watch_pause.hpp).
void watch(const std::shared_ptr<DeviceCore>& device, bool keenly = false) noexcept;

/// Has what nobody uses any more destroyed, and events made ahead, on a thread that may block (DeviceCore::tidy). The
/// device lives as long. Never throws or blocks.
void tidy_up(const std::shared_ptr<DeviceCore>& device) noexcept;

/// Gives the event back to the device's stock, and has those destroyed that are too many.
void give_event(const std::shared_ptr<DeviceCore>& device, EventHandle event, bool timed = false) noexcept;

/// Whether the thread looks at the device already, and will see what the caller has just left there; else watch().
inline bool is_watched(const DeviceCore& device) noexcept {
  // A store there, a load here: in one order with the watcher's opposite ones, so that one of the two sees the other's.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return device.watched.load(std::memory_order_relaxed);
}

/// Deletes a device that nobody holds any more. A device waits for its streams before it ends: one whose last owner was
/// a function in such a stream is ended by the library's own thread, or the function would wait for itself.
void end_device(DeviceCore* device) noexcept;

}  // namespace thole::inline v0_1::detail
