#pragma once

// The end of an arena of which somebody must be told, or that lay in memory of the program's. Whoever drops the last
// handle, buffer or borrow must not wait, nor run functions of the program's in the middle of its own work; so a thread
// of the library's own does it. It starts with the first such arena, and is never joined.

#include <functional>
#include <memory>

#include <thole/error.hpp>

#include "memory/region_hooks.hpp"

namespace thole::inline v0_1::detail {

/// All that is left of one arena, made when it begins, since its end must need no memory.
struct Departure {
  RegionHooks hooks;
  std::function<void()> release;  ///< adopted memory's, once it is pinned
  Region* regions = nullptr;      ///< linked by Region::next
  Departure* next = nullptr;
};

/// One with these functions; the thread is there. Errors: out_of_memory.
Result<std::unique_ptr<Departure>> prepare_departure(RegionHooks hooks);

/// Has the thread tell of each region, let go of it (adopted memory is unpinned, which waits for running work; the rest
/// is kept, pinned_pool.hpp), call `release`, and end the functions. One arena after the other. What a function throws
/// goes to the device's take_error(). When the process ends, what is still to be done is left undone. Never waits,
/// allocates or throws.
void depart(std::unique_ptr<Departure> departure) noexcept;

}  // namespace thole::inline v0_1::detail
