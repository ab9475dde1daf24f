#pragma once

// Memory of one device's arena that is used on another: who looks for finished blocks of the arena looks there, too.

#include <memory>
#include <vector>

#include "backend/device_core.hpp"

namespace thole::inline v0_1::detail {

/// Notes that memory of other devices' arenas is used on this device. Never throws: what is not noted comes back when
/// the device is asked for another reason.
void note_use_across_devices(const std::shared_ptr<DeviceCore>& device) noexcept;
/// The living devices of which that was noted, except `except`. Throws std::bad_alloc.
std::vector<std::shared_ptr<DeviceCore>> devices_used_across(const DeviceCore& except);

}  // namespace thole::inline v0_1::detail
