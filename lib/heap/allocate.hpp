#pragma once

// The program wants memory: it comes from the thread's cache, or else, step by step, from ever further away.

#include <cstddef>

#include <thole/error.hpp>

#include "base/deadline.hpp"
#include "heap/heap_core.hpp"

namespace thole::inline v0_1::detail {

/// A block of at least `bytes` (> 0) from the thread's cache, or nullptr: allocate_block() goes on from there.
Block* allocate_cached(HeapCore& heap, std::size_t bytes, std::size_t alignment) noexcept;

/// A block of at least `bytes` (> 0) at a multiple of `alignment`, that nobody holds yet. Waits for the device only
/// where there is a deadline. `call` names who asks. Errors: invalid_argument (alignment), too_large, out_of_memory,
/// timed_out, device_lost.
Result<Block*> allocate_block(HeapCore& heap, std::size_t bytes, std::size_t alignment, const Deadline& deadline,
                              const char* call) noexcept;

}  // namespace thole::inline v0_1::detail
