// Being told: functions that a thread of the library's runs when an event is ready.

#include <algorithm>
#include <chrono>
#include <coroutine>
#include <exception>
#include <thread>
#include <utility>

#include <fmt/format.h>

#include <thole/coroutine.hpp>

#include "program.hpp"

namespace model {

namespace {

/// A coroutine that nobody has to keep: it ends by itself.
struct Task {
  struct promise_type {
    Task get_return_object() { return {std::coroutine_handle<promise_type>::from_promise(*this)}; }
    static std::suspend_never initial_suspend() noexcept { return {}; }
    static std::suspend_never final_suspend() noexcept { return {}; }
    static void return_void() noexcept {}
    static void unhandled_exception() { std::terminate(); }
  };
  std::coroutine_handle<promise_type> handle;
};

Task wait_for_all_so_far(thole::StreamRef stream, Use so_far, std::shared_ptr<Notice> notice) {
  try {
    co_await stream.record();
    notice->early = notice->early || !model::completed(so_far.stream, so_far.position);
  } catch (const thole::Error& error) {
    notice->error = static_cast<int>(error.errc());
  }
  ++notice->told;
}

}  // namespace

/// That thread asks the device at moments that no seed decides: faults would meet either one's calls, and the captures
/// in the middle of a call are for programs that are alone.
bool Program::may_be_told() const {
  return !traits_.faults && (traits_.orphans || traits_.background) && notices_.size() <= 20;
}

void Program::co_await_event() {
  Lane* const lane = pick_lane(false);
  if (lane == nullptr || !may_be_told()) return;
  const Use so_far{lane->id, model::enqueued(lane->id), false, false};
  ledger_.refresh();
  say(fmt::format("co_await record() of {} ({})", lane->id, ledger_.open(so_far) ? "open" : "done"));
  const auto notice = std::make_shared<Notice>();
  const Task task = wait_for_all_so_far(*lane->ref, so_far, notice);
  ledger_.look();
  // Nobody resumes it while the work in front of its event is to be done: then it may be destroyed.
  if (ledger_.open(so_far) && chance(3)) {
    say("destroy the coroutine");
    task.handle.destroy();
    never_.push_back(notice);
  } else {
    notices_.push_back(notice);
  }
}

void Program::ask_for_notice() {
  if (!may_be_told()) return;
  if (chance(3)) return co_await_event();
  Lane* const lane = pick_lane(false);
  if (lane == nullptr) return;
  if (events_.empty() || (events_.size() < 6 && chance(2))) (void)keep_event(*lane, chance(4));
  if (events_.empty()) return;
  std::swap(events_[below(events_.size())], events_.back());
  const Use use = events_.back().use;
  say(fmt::format("on_ready of an event of {} ({})", use.stream, ledger_.open(use) ? "open" : "done"));
  const auto notice = std::make_shared<Notice>();
  // What it does itself is then the library's thread's, too.
  std::optional<thole::PinnedHeap> collects;
  if ((traits_.orphans || traits_.background) && !heaps_.empty() && chance(2)) collects = pick(heaps_)->heap;
  (void)call(true, {}, [&] {
    events_.back().event.on_ready([notice, use, collects](const thole::Result<void>& result) {
      notice->early = notice->early || (result && !model::completed(use.stream, use.position));
      if (!result) notice->error = static_cast<int>(result.error().errc());
      if (collects) (void)collects->collect();
      ++notice->told;
    });
  });
  notices_.push_back(notice);
  if (chance(2)) events_.pop_back();  // it need not live
  ledger_.look();
}

void Program::look_at_notices() {
  for (const auto& notice : notices_) {
    if (notice->told == 0) continue;
    if (notice->told != 1) broken("a function of on_ready ran twice");
    if (notice->early) broken("a function of on_ready ran before its event was ready");
    const auto error = static_cast<Errc>(notice->error.load());
    const bool may_fail = (lost_ && error == Errc::device_lost) || (void_seen_ && error == Errc::capturing);
    if (notice->error != 0 && !may_fail)
      broken("a function of on_ready was told of an error: " + make_error_code(error).message());
  }
  while (!notices_.empty() && notices_.front()->told != 0) notices_.pop_front();
  for (const auto& notice : never_)
    if (notice->told != 0) broken("a coroutine went on that was destroyed");
  while (never_.size() > 20) never_.pop_front();
}

/// Everything is done, or lost: each must be told. That thread may wait for the processor for long.
void Program::await_notices() {
  using namespace std::chrono_literals;
  const auto until = std::chrono::steady_clock::now() + 30s;
  look_at_notices();
  while (!notices_.empty()) {
    if (std::chrono::steady_clock::now() > until) broken("a function of on_ready did not run when all was done");
    std::this_thread::sleep_for(100us);
    look_at_notices();
  }
}

}  // namespace model
