// Being told: functions that a thread of the library's runs when an event is ready.

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include <fmt/format.h>

#include "api/handle_access.hpp"
#include "program.hpp"

namespace model {

void Program::ask_for_notice() {
  // That thread asks the device at moments that no seed decides: faults would meet either one's calls, and the captures
  // in the middle of a call are for programs that are alone.
  if (traits_.faults || (!traits_.orphans && !traits_.background) || notices_.size() > 20) return;
  Lane* const lane = pick_lane(false);
  if (lane == nullptr) return;
  if (events_.empty() || (events_.size() < 6 && chance(2))) {
    (void)call(true, {}, [&] {
      auto made = lane->ref->record();
      const auto position = position_of_record(lane->id, thole::detail::HandleAccess::ticket(made)->event);
      events_.push_back({std::move(made), {lane->id, position, false, false}});
    });
  }
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
