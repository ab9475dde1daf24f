#pragma once

// Who else is told of an arena's regions: functions of the program's, for libraries that register memory themselves.
// They run under no lock but the store's growing_, and may call thole; but their own arena cannot grow or be trimmed
// meanwhile.

#include <functional>

#include <gsl/span>

#include <thole/error.hpp>

#include "memory/region.hpp"

namespace thole::inline v0_1::detail {

/// See ArenaOptions.
struct RegionHooks {
  std::function<void(gsl::span<std::byte>)> added;
  std::function<void(gsl::span<std::byte>)> removed;

  explicit operator bool() const noexcept { return added != nullptr || removed != nullptr; }
};

/// Tells of a region before anything is in it. `store`: whose it is going to be. Fails as the function does: with the
/// code of an Error that it throws, else with limit.
Result<void> tell_added(const RegionHooks& hooks, const Region& region, const void* store) noexcept;
/// Tells that the region has left the store. What the function throws goes to the device's take_error().
void tell_removed(const RegionHooks& hooks, const Region& region, const void* store) noexcept;

/// Whether a function of that store's runs on this thread.
bool in_hook_of(const void* store) noexcept;

/// The error of whoever runs a function of the program's that has thrown: call in a handler. `region`: of which it was
/// told.
Error thrown_error(Errc otherwise, const char* function, const Region* region = nullptr) noexcept;

}  // namespace thole::inline v0_1::detail
