#pragma once

// The library's own thread: it collects from devices for which nobody else may come, until nothing waits on them, and
// makes events ahead. It starts when it is first wanted, sleeps while there is nothing to do, and is never joined.

#include <memory>

#include "backend/device_core.hpp"

namespace thole::detail {

/// Has the thread collect from the device until nothing waits on it; the device lives as long. Never throws or blocks;
/// where no thread can be had, the next call that collects does it. `keenly`: looks every millisecond, for
/// HeapOptions::background_reclaim; else ever less often, while nothing is found.
void watch(const std::shared_ptr<DeviceCore>& device, bool keenly = false) noexcept;

}  // namespace thole::detail
