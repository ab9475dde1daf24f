#include "streams/uses.hpp"

#include <algorithm>
#include <array>
#include <utility>

#include "base/host_function.hpp"
#include "blocks/block_pool.hpp"
#include "streams/timeline.hpp"

namespace thole::inline v0_1::detail {
namespace {

std::uint64_t position_of(const Use& use, Against against) noexcept {
  return against == Against::everything ? std::max(use.read, use.write) : use.write;
}

bool is_open(const Use& use) noexcept {
  return use.timeline != nullptr && !use.timeline->done(position_of(use, Against::everything));
}

/// What says when the last write of the slot's stream, a launch, has written; nullptr: nothing does. Under the lock, as
/// the result is read.
const std::shared_ptr<GraphWrite>* early_of(const Uses& uses, const Use& use) noexcept {
  const auto& early = uses.slots.get()->early;  // there is a slot
  const bool of_use = early != nullptr && use.timeline != nullptr && early->stream == use.timeline->id() &&
                      early->position == use.write;
  return of_use ? &early : nullptr;
}

bool is_open(const Uses& uses, const Use& use, Against against) noexcept {
  if (against == Against::everything) return is_open(use);
  if (use.timeline == nullptr || use.timeline->done(use.write)) return false;
  const auto* const early = early_of(uses, use);
  return early == nullptr || !(*early)->done;
}

bool is_vacant(const Use& use) noexcept { return use.under_way == 0 && !is_open(use); }

/// Calls `f(use)` for each slot, until it returns true; the slot for which it did, or nullptr. Under the lock.
template <class F>
Use* find_slot(const Uses& uses, F&& f) {
  Use* use = uses.slots.get();
  while (use != nullptr && !f(*use)) use = use->next;
  return use;
}

Use* slot_of(const Uses& uses, const Timeline& timeline) noexcept {
  return find_slot(uses, [&](const Use& use) { return use.timeline.get() == &timeline; });
}

/// Asks the device about a few of the uses, so that memory which ever new streams use needs no ever new slots.
void ask_some(const Uses& uses) noexcept {
  if (in_host_function()) return;
  int left = 4;
  for_each_open(uses, Against::everything, [&](const OpenUse& open) {
    (void)open.timeline->query(open.position);
    return --left != 0;
  });
}

}  // namespace

// ---- Asking

bool next_open(const Uses& uses, Against against, std::size_t& index, OpenUse& found, const Timeline* except) noexcept {
  const SpinGuard guard(uses.slots);
  std::size_t at = 0;
  const Use* const use = find_slot(uses, [&](const Use& slot) {
    return at++ >= index && slot.timeline.get() != except && is_open(uses, slot, against);
  });
  index = at;
  if (use == nullptr) return false;
  const auto* const early = against == Against::writes ? early_of(uses, *use) : nullptr;
  found = {use->timeline, position_of(*use, against), early != nullptr ? *early : nullptr};
  return true;
}

bool any_open(const Uses& uses, Against against) noexcept {
  const SpinGuard guard(uses.slots);
  return find_slot(uses, [&](const Use& use) { return is_open(uses, use, against); }) != nullptr;
}

std::shared_ptr<DeviceCore> lost_device(const Uses& uses) noexcept {
  std::shared_ptr<DeviceCore> found;
  for_each_open(uses, Against::everything, [&](const OpenUse& open) {
    if (open.timeline->device()->lost()) found = open.timeline->device();
    return found == nullptr;
  });
  return found;
}

std::chrono::nanoseconds used_since(const Uses& uses) noexcept {
  const SpinGuard guard(uses.slots);
  const Use* const first = uses.slots.get();
  return std::chrono::nanoseconds(first != nullptr ? first->since_ns : 0);
}

// ---- Waiting

namespace {

/// Asks the graph's own events, or waits for them. What they cannot say is left to the launch's event.
Status ask_early(const Uses& uses, const OpenUse& open, const Deadline* deadline) noexcept {
  const Status status = open.early->ask(deadline);
  if (!status.ok()) return status;
  const SpinGuard guard(uses.slots);
  const Use* const first = uses.slots.get();
  if (first != nullptr && first->early == open.early && open.early->stream == open.timeline->id() &&
      open.early->position == open.position)
    open.early->done = true;
  return status;
}

Status order_before(const OpenUse& open, Timeline& waiter) noexcept {
  if (open.early != nullptr && open.early->order_before(waiter).ok()) return {};
  return open.timeline->order_before(waiter, open.position);
}

}  // namespace

Status query(const Uses& uses, Against against) noexcept {
  Status status;
  for_each_open(uses, against, [&](const OpenUse& open) {
    if (open.early != nullptr) status = ask_early(uses, open, nullptr);
    if (open.early == nullptr || !status.ok()) status = open.timeline->query(open.position);
    return status.ok();
  });
  return status;
}

Status wait(const Uses& uses, Against against, const Deadline& deadline) noexcept {
  Status status;
  for_each_open(uses, against, [&](const OpenUse& open) {
    if (open.early != nullptr) status = ask_early(uses, open, &deadline);
    if (open.early == nullptr || !status.ok()) status = open.timeline->wait(open.position, deadline);
    return status.ok();
  });
  return status;
}

Status order_after(const Uses& uses, Against against, Timeline& waiter) noexcept {
  OpenUse open;
  for (std::size_t index = 0; next_open(uses, against, index, open, &waiter);)
    if (const Status status = order_before(open, waiter); !status.ok()) return status;
  return {};
}

Status OrderAfterAll::wait_for(OpenUse& open) noexcept {
  if (open.timeline == nullptr) return {};
  const Status status = open.timeline->order_before(waiter_, open.position);
  open = {};
  return status;
}

Status OrderAfterAll::add(const Uses& uses, Against against) noexcept {
  OpenUse found;
  for (std::size_t index = 0; next_open(uses, against, index, found, &waiter_);) {
    if (found.early != nullptr && found.early->order_before(waiter_).ok()) continue;
    OpenUse& place = open_[found.timeline->id() % places];
    if (place.timeline == found.timeline) {
      place.position = std::max(place.position, found.position);
      continue;
    }
    if (const Status status = wait_for(place); !status.ok()) return status;
    place = std::move(found);
  }
  return {};
}

Status OrderAfterAll::finish() noexcept {
  for (OpenUse& open : open_)
    if (const Status status = wait_for(open); !status.ok()) return status;
  return {};
}

// ---- Noting

bool reserve(Uses& uses, Timeline& timeline, WasOpen* was_open, bool at_any_cost) noexcept {
  std::shared_ptr<Timeline> forgotten;  // let go of after the lock: it may be the last reference
  Use* made = nullptr;
  bool any_slot = false;
  for (bool asked = false;; asked = true) {
    {
      const SpinGuard guard(uses.slots);
      Use* slot = slot_of(uses, timeline);
      if (slot == nullptr) slot = find_slot(uses, is_vacant);
      if (slot == nullptr && made != nullptr) {
        slot = std::exchange(made, nullptr);
        Use* const first = uses.slots.get();  // stays the first, which has more to tell
        first == nullptr ? uses.slots.set(slot) : void(slot->next = std::exchange(first->next, slot));
      }
      if (slot != nullptr) {
        find_slot(uses, [&](const Use& use) {
          if (!is_open(use)) return false;
          was_open->any = true;
          was_open->elsewhere = use.timeline.get() != &timeline;
          return was_open->elsewhere;
        });
        if (slot->timeline.get() != &timeline) {
          forgotten = std::exchange(slot->timeline, timeline.shared_from_this());
          slot->read = slot->write = 0;
        }
        ++slot->under_way;
        break;
      }
      any_slot = uses.slots.get() != nullptr;
    }
    if (!asked && any_slot) {
      ask_some(uses);
    } else {
      made = acquire_slot(at_any_cost);
      if (made == nullptr) return false;
    }
  }
  if (made != nullptr) release_slot(made);  // another thread has made room meanwhile
  return true;
}

void note(Uses& uses, const Timeline& timeline, std::uint64_t position, bool writes, std::int64_t since_ns) noexcept {
  std::shared_ptr<GraphWrite> forgotten;  // let go of after the lock, here and below
  const SpinGuard guard(uses.slots);
  Use& first = *uses.slots.get();
  if (since_ns != 0) first.since_ns = since_ns;
  Use& slot = *slot_of(uses, timeline);  // there is one while a call is under way
  --slot.under_way;
  // A write whose position came after that of a launch, or before it and is noted only now, has not its events.
  if (writes && position != 0 && first.early != nullptr && first.early->stream == timeline.id())
    forgotten = std::move(first.early);
  auto& noted = writes ? slot.write : slot.read;
  noted = std::max(noted, position);
}

void note_launch(Uses& uses, const Timeline& timeline, std::uint64_t position, std::uint64_t before,
                 std::shared_ptr<GraphWrite> write, std::int64_t since_ns) noexcept {
  const SpinGuard guard(uses.slots);
  Use& first = *uses.slots.get();
  if (since_ns != 0) first.since_ns = since_ns;
  Use& slot = *slot_of(uses, timeline);
  --slot.under_way;
  if (slot.write > before) {
    write.reset();  // a write was enqueued meanwhile, perhaps behind the launch
  } else {
    write->stream = timeline.id();
    write->position = position;
    write->done = false;
  }
  first.early.swap(write);
  slot.write = std::max(slot.write, position);
}

namespace {

/// Empties some of the slots that may go. Their streams' records, which this may let go of last, end after the lock.
/// Calls `then(left)` under the lock with whether any slot still names a stream, and returns that.
template <class May, class Then>
bool forget_some(Uses& uses, May may_go, Then then) noexcept {
  std::array<std::shared_ptr<Timeline>, 4> forgotten;
  std::shared_ptr<GraphWrite> forgotten_early;
  std::size_t count = 0;
  const SpinGuard guard(uses.slots);
  const bool left = find_slot(uses, [&](Use& use) {
                      if (use.timeline != nullptr && count != forgotten.size() && may_go(use))
                        forgotten[count++] = std::move(use.timeline);
                      return use.timeline != nullptr;
                    }) != nullptr;
  if (Use* const first = uses.slots.get(); !left && first != nullptr) forgotten_early = std::move(first->early);
  then(left);
  return left;
}

}  // namespace

bool copy_open(const Uses& from, Uses& to) noexcept {
  const std::int64_t since = used_since(from).count();
  const auto note_all = [&](Against against) {
    return for_each_open(from, against, [&](const OpenUse& open) {
      WasOpen was_open;
      if (!reserve(to, *open.timeline, &was_open, true)) return false;
      note(to, *open.timeline, open.position, against == Against::writes, since);
      return true;
    });
  };
  // Both, since what was written last may be followed by reads that are open, too.
  return note_all(Against::writes) && note_all(Against::everything);
}

bool forget_done(Block& block) noexcept {
  // Positions that are done stay done, and a call under way keeps its slot.
  return !forget_some(block.uses, is_vacant, [&](bool left) {
    if (!left) block.used.store(false, std::memory_order_release);
  });
}

void forget_all(Uses& uses) noexcept {
  // Others may look meanwhile: a report, or a heap that is drained.
  while (forget_some(
      uses, [](const Use&) { return true; }, [](bool) {})) {
  }
}

}  // namespace thole::inline v0_1::detail
