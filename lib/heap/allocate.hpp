#pragma once

// Where memory is wanted: from the thread's cache, or else step by step from ever further away.

#include <chrono>
#include <cstddef>
#include <optional>

#include <thole/error.hpp>

#include "heap/heap_core.hpp"

namespace thole::detail {

using Deadline = std::optional<std::chrono::steady_clock::time_point>;

/// A block of at least `bytes` (> 0) from the thread's cache, or nullptr: allocate_block() goes on from there.
Block* allocate_at_once(HeapCore& heap, std::size_t bytes, std::size_t alignment) noexcept;

/// A block of at least `bytes` (> 0) at a multiple of `alignment`, that nobody holds yet. Waits for the device only
/// where there is a deadline. `call` names who asks.
Result<Block*> allocate_block(HeapCore& heap, std::size_t bytes, std::size_t alignment, const Deadline& deadline,
                              const char* call) noexcept;

}  // namespace thole::detail
