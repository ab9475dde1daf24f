#pragma once

// How long the library's own thread sleeps between two looks at the devices that it watches.

#include <algorithm>
#include <chrono>

namespace thole::inline v0_1::detail {

using WatchPause = std::chrono::microseconds;

inline constexpr WatchPause shortest_watch_pause = std::chrono::milliseconds(1);
inline constexpr WatchPause longest_watch_pause = std::chrono::milliseconds(64);

/// The pause after one in which nothing was found. `keenly`: it grows by an eighth, so that after a while in which
/// nothing was found the next look is an eighth of that while away, and a stream that stands still costs 16 looks a
/// second. Else it doubles: nobody is in a hurry.
constexpr WatchPause next_watch_pause(WatchPause last, bool keenly) noexcept {
  return std::min(keenly ? last + last / 8 : last * 2, longest_watch_pause);
}

}  // namespace thole::inline v0_1::detail
