#pragma once

// The end of the process. A driver unloads in exit handlers of its own, and a call that another thread makes meanwhile
// may crash inside it. So an exit handler of ours comes before those. The library's own threads, which nobody joins,
// begin no more calls, and it waits for those that go on; after that a call of any thread is refused. One of the
// program's threads that has passed that check a moment before is the program's affair.

#include <chrono>

namespace thole::inline v0_1::detail {

/// Once a driver is loaded; from the second time on it does nothing, so that what the program makes later is still
/// served. Exit handlers run in the opposite order of their registration: ours before the driver's.
void end_calls_at_exit() noexcept;

/// What the exit handler does. Waits for calls of the library's own threads that are going on, but not for ever: making
/// an event may wait for a kernel that never ends.
void end_calls(std::chrono::milliseconds at_most) noexcept;

/// Whether that has come to its end: no call to a driver may begin any more.
bool process_is_ending() noexcept;

/// For a thread of the library's own that may make no calls any more: it keeps what it holds, whose end would be a
/// call, and goes no further; the process ends it.
[[noreturn]] void stand_still() noexcept;

/// A stretch in which a thread of the library's own calls a backend.
class BackgroundCalls {
 public:
  BackgroundCalls() noexcept;
  ~BackgroundCalls();
  BackgroundCalls(const BackgroundCalls&) = delete;
  BackgroundCalls& operator=(const BackgroundCalls&) = delete;

  /// False: the process is ending, and this thread must not call.
  explicit operator bool() const noexcept { return allowed_; }

 private:
  const bool allowed_;
};

}  // namespace thole::inline v0_1::detail
