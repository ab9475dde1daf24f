// Events that measure time. The time between two is known exactly when both are done; what it must be at least is known
// where one surely comes after the other.

#include <algorithm>
#include <chrono>
#include <utility>

#include <fmt/format.h>

#include "api/handle_access.hpp"
#include "program.hpp"

namespace model {

using std::chrono::nanoseconds;

/// An event behind all that the stream has been given, which the program keeps. nullptr: it was refused.
KeptEvent* Program::keep_event(Lane& lane, bool timed) {
  const auto failed = call(true, {}, [&] {
    auto made = lane.ref->record({.timing = timed});
    const auto position = position_of_record(lane.id, thole::detail::HandleAccess::ticket(made)->event);
    KeptEvent kept{std::move(made), {lane.id, position, false, false}};
    kept.timed = timed;
    kept.device = lane.device;
    kept.number = ++event_numbers_;
    events_.push_back(std::move(kept));
  });
  return failed ? nullptr : &events_.back();
}

/// Two events around some work, in one stream, or in two of which the second one waits for the first.
void Program::measure() {
  if (events_.size() > 8 || chance(3)) return chance(8) ? moved_from_event() : ask_for_time();
  Lane* const from = pick_lane(false);
  Lane* const to = chance(2) ? from : pick_lane(false);
  if (from == nullptr || to == nullptr) return;
  say(fmt::format("measure from {} to {}", from->id, to->id));
  const KeptEvent* const start = keep_event(*from, true);
  if (start == nullptr) return;
  const std::uint64_t number = start->number;
  if (from != to && call(true, {}, [&] { to->ref->wait(start->event); })) return;
  nanoseconds least{0};
  for (std::size_t left = below(4); left != 0; --left) {
    Kernel& kernel = *kernels_.emplace_back(std::make_unique<Kernel>());
    if (call(true, {}, [&] { to->ref->launch_host_function([self = &kernel] { self->ran = true; }); }))
      kernels_.pop_back();
    else
      least += traits_.clock;
  }
  if (KeptEvent* const end = keep_event(*to, true)) {
    end->after = number;
    end->least = least;
  }
  ledger_.look();
}

/// What one rule or another says against asking for the time between two; empty: nothing but that they may be open.
std::vector<Errc> Program::no_time(const KeptEvent& start, const KeptEvent& end) const {
  std::vector<Errc> broken_rules;
  if (start.device != end.device) broken_rules.push_back(Errc::wrong_device);
  if (!start.timed || !end.timed) broken_rules.push_back(Errc::invalid_argument);
  return broken_rules;
}

void Program::check_time(const KeptEvent& start, const KeptEvent& end, nanoseconds time) const {
  // By their numbers: one that was done at once has no position.
  const bool same = start.use.stream == end.use.stream;
  if (same && (start.number < end.number ? time < nanoseconds(0) : time > nanoseconds(0)))
    broken(fmt::format("{} ns between two events of one stream", time.count()));
  if (end.after == start.number && time < end.least)
    broken(fmt::format("{} ns for work that takes at least {}", time.count(), end.least.count()));
  if (start.after == end.number && -time < start.least) broken("a time the other way round is too long");
  const auto now = devices_[start.device].simulation().now();
  if (time > now || -time > now) broken("more time has passed than there was");
}

void Program::ask_for_time() {
  if (events_.empty()) return;
  const KeptEvent& end = events_[below(events_.size())];
  const KeptEvent* start = pick(events_);
  // Mostly the two that belong together.
  if (const auto found = std::ranges::find(events_, end.after, &KeptEvent::number);
      found != events_.end() && !chance(4))
    start = &*found;
  ledger_.refresh();
  const auto rules = no_time(*start, end);
  const auto done = [&] { return !ledger_.open(start->use) && !ledger_.open(end.use); };
  const bool were_done = done();
  say(fmt::format("the time from an event of {} ({}) to one of {} ({}){}{}", start->use.stream,
                  ledger_.open(start->use) ? "open" : "done", end.use.stream, ledger_.open(end.use) ? "open" : "done",
                  start->timed && end.timed ? "" : ", not timed", start->device == end.device ? "" : ", elsewhere"));
  nanoseconds time{0};
  const bool tries = chance(2);
  const auto ask = [&](const KeptEvent& one, const KeptEvent& other) {
    return tries ? or_throw(other.event.try_elapsed_since(one.event)) : other.event.elapsed_since(one.event);
  };
  const Errc rule = rules.empty() ? Errc::in_flight : rules.front();
  const auto failed = call([&] { return rules.empty() && done(); }, {rule, rules.empty() ? rule : rules.back()},
                           [&] { time = ask(*start, end); });
  if (failed == Errc::in_flight && (were_done || !rules.empty())) broken("events that are done are said not to be");
  if (failed) return ledger_.look();
  check_time(*start, end, time);
  // The other way round, and by way of a third.
  (void)call(true, {}, [&] {
    if (ask(end, *start) != -time) broken("the time the other way round is another");
    if (ask(end, end) != nanoseconds(0)) broken("an event is not at its own time");
  });
  const KeptEvent& third = events_[below(events_.size())];
  if (!no_time(*start, third).empty() || ledger_.open(third.use)) return ledger_.look();
  (void)call(true, {}, [&] {
    if (ask(*start, third) + ask(third, end) != time) broken("times do not add up");
  });
  ledger_.look();
}

void Program::moved_from_event() {
  if (events_.empty()) return;
  say("an event is moved");
  thole::Event& from = events_[below(events_.size())].event;
  thole::Event moved = std::move(from);
  (void)call(false, {Errc::moved_from}, [&] { (void)from.elapsed_since(moved); });
  (void)call(false, {Errc::moved_from}, [&] { (void)moved.elapsed_since(from); });
  (void)call(false, {Errc::moved_from}, [&] { (void)from.ready(); });
  from = std::move(moved);
}

/// An event of a capture is at no time, whatever it was recorded with.
void Program::ask_in_capture(const thole::Event& captured) {
  const thole::Event& other = events_.empty() ? captured : events_[below(events_.size())].event;
  for (const auto& [start, end] : {std::pair(&captured, &other), std::pair(&other, &captured)}) {
    const auto time = end->try_elapsed_since(*start);
    const auto code = time ? Errc::timed_out : time.error().errc();
    if (code != Errc::capturing && code != Errc::invalid_argument && code != Errc::wrong_device)
      broken("an event of a capture has a time, or says something else: " + make_error_code(code).message());
  }
}

}  // namespace model
