#pragma once

// Regions that no arena has: they stay pinned and serve the next arena. For as long as any stream is busy, CUDA's
// cudaHostUnregister and cudaFreeHost wait, and meanwhile nearly every other call of the process does, so that letting
// go of a region must not unpin it. What does, is said here of each function.
//
// One pool a device. A region serves an arena that is pinned in the same way (RegionOptions), so that nothing has to be
// undone: the NUMA policy and what the kernel was told of the pages stay right. What the memory holds stays, too.
//
// How one is chosen: the smallest that is large enough, but at most twice as large, since the rest of it lies idle.
// Only where no more may be pinned, or can be, does any serve that is large enough.

#include <cstddef>
#include <memory>

#include <thole/error.hpp>

#include "backend/device_core.hpp"
#include "memory/region.hpp"

namespace thole::inline v0_1::detail {

/// What a caller of obtain_region may be made to wait for.
enum class Unpinning {
  never,      ///< nothing is unpinned: the caller must not wait for running work
  if_needed,  ///< where more is kept than may be, and where the memory cannot be had otherwise
};

/// A region of `bytes` (whole pages): one that was kept, or a new one. With Unpinning::if_needed it unpins what is kept
/// beyond the bound before it pins, and all that any device keeps where pinning meets a limit; there it waits for other
/// threads that unpin, too. Errors: as pin_region.
Result<Region*> obtain_region(const std::shared_ptr<DeviceCore>& device, std::size_t bytes,
                              const RegionOptions& options, Unpinning unpinning);

/// Lets go of a region that nothing is in: it stays pinned. Never waits, allocates or unpins.
void keep_region(Region* region) noexcept;

/// Unpins the region. Waits for running work.
void give_back_region(Region* region) noexcept;

/// Unpins all that the device keeps. Returns bytes, and in `failed` what a call said that failed. Waits for running
/// work.
std::size_t unpin_kept(DeviceBackend& backend, Status* failed = nullptr) noexcept;

/// The bytes that the device keeps pinned for later arenas.
std::size_t kept_bytes(const DeviceBackend& backend) noexcept;

/// The pinned bytes of regions that arenas have.
std::size_t bytes_in_use(const DeviceBackend& backend) noexcept;

/// The most bytes that the device keeps from now on; without it, twice as many as its arenas had at once. What is kept
/// beyond it is unpinned by the next obtain_region that may. Throws std::bad_alloc.
void limit_kept(const std::shared_ptr<DeviceBackend>& backend, std::size_t bytes);

}  // namespace thole::inline v0_1::detail
