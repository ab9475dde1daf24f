#pragma once

// Where blocks come back from the device: asking streams, and handing what is finished to its heap.

#include <cstddef>
#include <memory>

#include "backend/device_core.hpp"
#include "streams/timeline.hpp"

namespace thole::detail {

/// Everything of the device that is finished, and what graphs have let go of; returns how many blocks came back. Never
/// waits for work.
std::size_t collect(DeviceCore& device) noexcept;
/// The blocks of one stream; a bounded number of queries.
std::size_t collect_some(Timeline& timeline) noexcept;
/// The blocks of some stream of the device, another one each time; a bounded number of queries.
std::size_t collect_any(DeviceCore& device) noexcept;
/// All blocks of one stream that are finished.
std::size_t collect_stream(Timeline& timeline) noexcept;

/// Has the library's own thread collect from the device, until nothing waits on it: for what nobody else may come for.
/// Never throws; where no thread can be had, the next call that collects does it.
void watch(const std::weak_ptr<DeviceCore>& device) noexcept;
/// As watch(), but only once nothing but its own streams keeps the device alive.
void watch_orphan(const std::weak_ptr<DeviceCore>& device) noexcept;
/// As watch(), until the object behind `heap` is gone: HeapOptions::background_reclaim.
void watch_for(const std::weak_ptr<DeviceCore>& device, const std::weak_ptr<void>& heap) noexcept;

}  // namespace thole::detail
