#pragma once

// What happens to arenas while nobody asks for anything: one thread of the library's own pins what an arena is still to
// have (ArenaOptions::pin_in_background) and unpins what it has not used for long (ArenaOptions::trim_after). It keeps
// no arena alive, but while it does something to it; then the arena may end on this thread.

#include <chrono>
#include <memory>

namespace thole::inline v0_1::detail {

class ArenaCore;

/// Takes care of the arena until it ends. False: there is no thread to be had. Throws std::bad_alloc.
bool take_care_of(const std::shared_ptr<ArenaCore>& arena);

/// What the thread does to one arena at `now`; returns when it wants to come again. time_point::max(): never.
std::chrono::steady_clock::time_point care_for(const std::shared_ptr<ArenaCore>& arena,
                                               std::chrono::steady_clock::time_point now) noexcept;

}  // namespace thole::inline v0_1::detail
