#pragma once

// The thread that unpins what nobody uses any more: cudaHostUnregister waits for running kernels, and letting go of an
// arena must not. It starts with the first region that it gets, and rests for ever after: it is never joined, and what
// it uses is never destroyed, so that arenas may end in static destructors and after main.

#include <cstddef>

#include "memory/region.hpp"

namespace thole::detail {

/// As unpin_region, on the unpinner's thread. Never blocks, never allocates.
void unpin_region_later(Region* region) noexcept;

/// As pin_region. Where a limit is met, or a large region finds no parked range of addresses, regions that wait to be
/// unpinned may hold what is missing: it waits for the unpinner, which may wait for running kernels. (Meanwhile drivers
/// register nothing, so that pinning would wait all the same.)
Result<Region*> pin_region_or_wait(const std::shared_ptr<DeviceCore>& device, std::size_t bytes,
                                   const RegionOptions& options);

/// How many regions the unpinner has given back so far.
std::size_t regions_unpinned_later() noexcept;

/// Waits until the unpinner has nothing left to do.
void finish_unpinning() noexcept;

}  // namespace thole::detail
