#pragma once

// Blocks that a graph has let go of and that nobody else holds. A graph's release runs on a thread of the driver's and
// may not call the device, so that they wait here until somebody reclaims, at the latest the library's own thread.

#include <memory>

#include "backend/device_core.hpp"
#include "blocks/moving_blocks.hpp"

namespace thole::detail {

/// The graph that is being captured holds the block from now on; the caller holds it, too.
Status keep_in_graph(Block& block, const std::shared_ptr<DeviceCore>& device, GraphHandle graph) noexcept;
/// Moves all such blocks to `out`.
void take_released_from_graphs(MovingBlocks& out) noexcept;

}  // namespace thole::detail
