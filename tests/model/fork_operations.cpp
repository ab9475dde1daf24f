// Streams fork and join in a capture: record() and wait() there are those of the capture. Branches run beside each
// other at each launch; thole orders what it knows they do with one piece of memory.

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "program.hpp"

namespace model {

bool Program::has_branches(const Lane& lane) const {
  return std::ranges::any_of(lanes_, [&](const Lane& each) { return each.branch_of == lane.id; });
}

void Program::fork_or_join() {
  std::vector<Lane*> capturing;
  for (Lane& each : lanes_)
    if (each.capture && (only_capture_ == nullptr || each.capture->nodes.get() == only_capture_))
      capturing.push_back(&each);
  if (capturing.empty()) return;
  Lane* const from = capturing[below(capturing.size())];
  Lane* const to = pick(lanes_);
  if (to == from || to->device != from->device) return;
  if (!to->capture) return fork(*from, *to);
  const bool together = to->capture->nodes == from->capture->nodes;
  say(fmt::format("{} waits for {}, {}", to->id, from->id, together ? "in one capture" : "which another capture has"));
  // A mistake disturbs neither of the captures.
  (void)call(together, {together ? Errc::device_lost : Errc::capturing}, [&] { to->ref->wait(from->ref->record()); });
  ledger_.look();
}

void Program::fork(const Lane& from, Lane& to) {
  say(fmt::format("fork {} from {}", to.id, from.id));
  if (!wait_in_capture(to, from)) return;
  if (!to.ref->capturing()) broken("a forked stream does not say that it captures");
  Lane& origin = from.branch_of != 0 ? *lane(from.branch_of) : *lane(from.id);
  origin.capture->forked = true;
  Graph branch;
  branch.nodes = origin.capture->nodes;
  branch.life = origin.capture->life;
  branch.seen = origin.capture->seen;
  branch.each_write = origin.capture->each_write;
  to.capture = std::move(branch);
  to.branch_of = origin.id;
  ledger_.look();
}

bool Program::wait_in_capture(const Lane& waiter, const Lane& before) {
  return !call(true, {}, [&] {
    const thole::Event event = before.ref->record();
    waiter.ref->wait(event);
  });
}

bool Program::join_branches(const Lane& origin) {
  bool all = true;
  for (const Lane& each : lanes_) {
    if (each.branch_of != origin.id) continue;
    if (chance(24)) {
      say(fmt::format("{} is not joined", each.id));
      all = false;
      continue;
    }
    say(fmt::format("join {} to {}", each.id, origin.id));
    for (int left = 3; !wait_in_capture(origin, each); --left)  // a fault meets one call
      if (left == 0) broken("a stream cannot be joined");
  }
  return all;
}

/// Their capture has ended, or come to nothing: they are ordinary streams again.
void Program::branches_end(std::uint64_t origin) {
  for (Lane& each : lanes_) {
    if (each.branch_of != origin) continue;
    each.branch_of = 0;
    each.capture.reset();
    if (each.ref->capturing()) broken("a branch captures after the end");
  }
}

}  // namespace model
