#pragma once

// One thread's full barrier on behalf of all: membarrier(2) makes every running thread of the process execute one.
// Where two threads each write one word and then read the other's, the one that does so all the time needs no barrier
// of its own, if the one that does so rarely runs this between its write and its read.

#include <atomic>

#include <thole/export.hpp>

namespace thole::detail {

/// Asks the kernel for the barrier; later calls cost nothing. Called before the first block is made.
void prepare_asymmetric_fence() noexcept;
/// Set once, before any block exists; false where the kernel or a sandbox has no such barrier, and all have to use
/// their own.
THOLE_EXPORT extern constinit std::atomic<bool> has_asymmetric_fence;
/// The barrier; only where has_asymmetric_fence says so.
void run_asymmetric_fence() noexcept;

}  // namespace thole::detail
