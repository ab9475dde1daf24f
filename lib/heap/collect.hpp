#pragma once

// Where blocks come back from the device: asking streams, and handing what is finished to its heap.

#include <cstddef>

#include "backend/device_core.hpp"
#include "streams/timeline.hpp"

namespace thole::inline v0_1::detail {

/// Everything of the device that is finished, on other devices, too, where they use memory across devices, and what
/// graphs have let go of; returns how many blocks came back. Never waits for work.
std::size_t collect(DeviceCore& device, Wanted wanted = Wanted::finished) noexcept;
/// Takes what graphs that are gone held, without a call of the device, and returns the number of those blocks.
std::size_t collect_from_graphs() noexcept;
/// The blocks of one stream; a bounded number of queries.
std::size_t collect_some(Timeline& timeline) noexcept;
/// The blocks of some stream of the device, another one each time; a bounded number of queries.
std::size_t collect_any(DeviceCore& device) noexcept;
/// All blocks of one stream that are finished.
std::size_t collect_stream(Timeline& timeline) noexcept;

}  // namespace thole::inline v0_1::detail
