#include "memory/region_hooks.hpp"

#include <exception>
#include <string>

namespace thole::inline v0_1::detail {

namespace {

/// The functions that run on a thread, one inside the other.
class Running {
 public:
  explicit Running(const void* store) noexcept : store_(store), outer_(innermost) { innermost = this; }
  ~Running() { innermost = outer_; }
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;

  static bool any_of(const void* store) noexcept {
    for (const Running* at = innermost; at != nullptr; at = at->outer_)
      if (at->store_ == store) return true;
    return false;
  }

 private:
  static constinit thread_local const Running* innermost;

  const void* const store_;
  const Running* const outer_;
};

constinit thread_local const Running* Running::innermost = nullptr;

/// The function that has thrown, in words.
std::string named(const char* function, const Region* region) {
  return region == nullptr ? std::string(function)
                           : std::string("PinnedArena: ") + function + "(" + bytes_text(region->bytes) + ")";
}

}  // namespace

Error thrown_error(Errc otherwise, const char* function, const Region* region) noexcept {
  try {
    throw;
  } catch (const Error& error) {
    return Error::make(error.errc(), [&] { return named(function, region) + " threw: " + error.what(); });
  } catch (const std::exception& error) {
    return Error::make(otherwise, [&] { return named(function, region) + " threw: " + error.what(); });
  } catch (...) {
    return Error::make(otherwise, [&] { return named(function, region) + " threw what is no std::exception"; });
  }
}

Result<void> tell_added(const RegionHooks& hooks, const Region& region, const void* store) noexcept {
  if (!hooks.added) return {};
  try {
    const Running running(store);
    hooks.added({region.data, region.bytes});
    return {};
  } catch (...) {
    return tl::unexpected(thrown_error(Errc::limit, "on_region_added", &region));
  }
}

void tell_removed(const RegionHooks& hooks, const Region& region, const void* store) noexcept {
  if (!hooks.removed) return;
  try {
    const Running running(store);
    hooks.removed({region.data, region.bytes});
  } catch (...) {
    region.device->keep_error(thrown_error(Errc::limit, "on_region_removed", &region));
  }
}

bool in_hook_of(const void* store) noexcept { return Running::any_of(store); }

}  // namespace thole::inline v0_1::detail
