#pragma once

namespace thole::inline v0_1 {

/// How an arena's memory becomes pinned.
enum class PinMethod {
  register_pages,  ///< Map huge pages, touch them from several threads, register them: the fast way.
  host_alloc,      ///< Ask the driver (`cudaHostAlloc`): ten times slower, for systems where registering fails.
};

}  // namespace thole::inline v0_1
