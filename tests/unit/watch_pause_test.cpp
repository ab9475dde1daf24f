// How often the library's own thread looks at devices: never timed, computed.

#include <doctest/doctest.h>

#include "streams/watch_pause.hpp"

using namespace thole::detail;

namespace {

struct Looks {
  int count = 0;
  WatchPause passed{0};
};

/// The looks in the first so much of a wait in which nothing is found.
Looks looks_within(WatchPause time, bool keenly) {
  Looks looks;
  for (WatchPause pause = shortest_watch_pause; looks.passed + pause <= time;
       pause = next_watch_pause(pause, keenly), ++looks.count)
    looks.passed += pause;
  return looks;
}

}  // namespace

TEST_CASE("a stream that stands still is looked at 16 times a second, also for a heap with background_reclaim") {
  constexpr WatchPause hour = std::chrono::hours(1), second = std::chrono::seconds(1);
  for (const bool keenly : {true, false})
    CHECK(looks_within(hour + second, keenly).count - looks_within(hour, keenly).count <= 16);
}

TEST_CASE("a heap with background_reclaim has back what has been in flight for a while an eighth of that later") {
  WatchPause waited{0};
  for (WatchPause pause = shortest_watch_pause; pause < longest_watch_pause; pause = next_watch_pause(pause, true)) {
    CHECK(pause <= shortest_watch_pause + waited / 8);
    waited += pause;
  }
  CHECK(waited < std::chrono::seconds(1));  // it does get there
}

TEST_CASE("where nobody is in a hurry, few looks lead to the longest pause") {
  CHECK(looks_within(std::chrono::milliseconds(127), false).count == 7);
}
