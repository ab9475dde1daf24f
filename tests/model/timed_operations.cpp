// Waits with an end. Nobody steps the device meanwhile, so that what is not done when the call begins is not done when
// its time is over, however short; and what is known to be done is had with no time at all.

#include <algorithm>
#include <chrono>
#include <utility>

#include <fmt/format.h>

#include "program.hpp"

namespace model {
namespace {

using std::chrono::nanoseconds;

std::optional<thole::Error> error_of(const thole::Result<void>& result) {
  return result ? std::nullopt : std::optional(result.error());
}

}  // namespace

nanoseconds Program::short_time() {
  constexpr nanoseconds times[] = {nanoseconds(0), nanoseconds(0), nanoseconds(-1), nanoseconds(1), nanoseconds(2000)};
  return times[below(5)];
}

void Program::timed_operation() {
  switch (below(8)) {
    case 0:
    case 1:
    case 2:
      return timed_borrow();
    case 3:
      return timed_wait();
    case 4:
      return timed_event();
    case 5:
      return timed_drain();
    case 6:
      return timed_synchronize();
    default:
      return timed_to_host();
  }
}

/// After everything that there is has been done, for the call that must then succeed: a thread of the library's may
/// have been late with an event, and behind one that failed nobody can know.
template <class Wait>
void Program::must_succeed_when_done(Wait&& wait) {
  for (int left = 4; settle_all(); --left) {
    const auto failed = wait();
    if (!failed || fault_fired() || fault_seen_ || void_seen_) return;
    if (left == 0) broken(trace_.back() + ": failed when everything is done");
  }
}

void Program::timed_borrow() {
  HostBuffer* const target = pick_buffer();
  if (target == nullptr) return;
  Memory& memory = *target->memory;
  const bool write = chance(2);
  if (busy_for_host(memory, write)) return;
  const bool forbidden = memory.count != 0 && (memory.writer || (write && memory.readers != 0));
  const auto borrow = [&] {
    const auto time = short_time();
    const bool idle = memory.surely_idle();
    say(fmt::format("try_borrow{}_for {} ns of {} ({}, {})", write ? "_mut" : "", time.count(), memory.count,
                    forbidden ? "borrowed" : "free", ledger_.conflict(memory, write, true) ? "in flight" : "done"));
    const auto failed =
        call([&] { return memory.count == 0 || (!forbidden && !ledger_.conflict(memory, write, true)); },
             {forbidden ? Errc::borrowed : Errc::timed_out},
             [&] {
               const auto known = memory.known ? memory.count : 0;
               if (write) {
                 auto borrowed = target->buffer.try_borrow_mut_for(time);
                 if (!borrowed) throw borrowed.error();
                 ledger_.look();  // before anything is written
                 const auto wrong = difference(borrowed->data(), memory.content.data(), known);
                 if (!wrong.empty()) broken("try_borrow_mut_for shows a wrong payload: " + wrong);
                 if (ledger_.conflict(memory, true, true)) return;  // call() tells it
                 memory.content = ledger_.fresh(memory.count);
                 memory.known = true;
                 memory.used = false;
                 std::ranges::copy(memory.content, borrowed->begin());
               } else {
                 const auto borrowed = target->buffer.try_borrow_for(time);
                 if (!borrowed) throw borrowed.error();
                 const auto wrong = difference(borrowed->data(), memory.content.data(), known);
                 if (!wrong.empty()) broken("try_borrow_for shows a wrong payload: " + wrong);
               }
             });
    if (failed && memory.count == 0) broken("an empty buffer was refused to a borrow");
    if (failed && !forbidden && idle) broken("a buffer that nothing uses was refused to a borrow");
    return failed;
  };
  const auto failed = borrow();
  if (failed && !forbidden && chance(2)) must_succeed_when_done(borrow);
  ledger_.look();
}

void Program::timed_wait() {
  HostBuffer* const target = pick_buffer();
  if (target == nullptr) return;
  Memory& memory = *target->memory;
  const auto wait = [&] {
    const auto time = short_time();
    const bool idle = memory.surely_idle();
    say(fmt::format("wait_for {} ns of {} ({})", time.count(), memory.count,
                    ledger_.conflict(memory, true, true) ? "in flight" : "done"));
    const auto error = error_of(target->buffer.wait_for(time));
    judge(error, error || memory.count == 0 || holds([&] { return !ledger_.conflict(memory, true, true); }),
          {Errc::timed_out});
    if (error && (memory.count == 0 || idle)) broken("a wait for what nothing uses failed");
    if (!error) memory.used = false;
    return error.has_value();
  };
  if (wait() && chance(2)) must_succeed_when_done(wait);
  ledger_.look();
}

void Program::timed_event() {
  if (events_.empty()) return event();
  const KeptEvent& kept = events_[below(events_.size())];
  const auto done = [&] { return !ledger_.open(kept.use); };
  const auto time = short_time();
  const bool was_done = done();
  say(fmt::format("wait_for {} ns for an event of {} ({})", time.count(), kept.use.stream, was_done ? "done" : "open"));
  const auto error = error_of(kept.event.wait_for(time));
  // Where a capture took it, it says nothing.
  judge(error, error || holds(done), {Errc::timed_out});
  if (error && error->errc() == Errc::timed_out && was_done) broken("an event that is ready is waited for in vain");
  ledger_.look();
}

void Program::timed_drain() {
  Heap* const heap = pick(heaps_);
  if (heap == nullptr) return;
  const auto idle = [&] {
    return std::ranges::none_of(ledger_.pinned(), [&](const MemoryPtr& memory) {
      return memory->heap == heap->number && ledger_.conflict(*memory, true, true);
    });
  };
  const auto drain = [&] {
    const auto time = short_time();
    say(fmt::format("drain_for {} ns ({})", time.count(), idle() ? "done" : "in flight"));
    const auto error = error_of(heap->heap.drain_for(time));
    judge(error, error || holds(idle), {Errc::timed_out, freed_in_capture_ ? Errc::capturing : Errc::timed_out});
    return error && error->errc() != Errc::capturing;
  };
  if (drain() && chance(2)) must_succeed_when_done(drain);
  ledger_.look();
}

void Program::timed_synchronize() {
  Lane* const lane = pick_lane(true);
  if (lane == nullptr) return;
  const auto time = short_time();
  const Use all{lane->id, model::enqueued(lane->id), false, true};
  say(fmt::format("synchronize_for {} ns {}", time.count(), lane->id));
  const auto error = error_of(lane->ref->synchronize_for(time));
  judge(error, error || (!lane->capture && holds([&] { return !ledger_.open(all); })),
        {lane->capture ? Errc::capturing : Errc::timed_out});
  ledger_.look();
}

/// Where pinned memory is short, too.
void Program::timed_to_host() {
  DeviceMemory* const from = pick(device_memory_);
  Lane* const lane = pick_lane(false);
  Heap* const heap = pick(heaps_);
  if (from == nullptr || lane == nullptr || heap == nullptr || buffers_.size() > 40) return;
  if (from->memory->device != lane->device || !order(*lane, *from->memory, false)) return;
  const std::size_t count = from->memory->count;
  const auto time = short_time();
  say(fmt::format("async_to_host_for {} ns ({}) of {} words", time.count(), lane->id, count));
  std::optional<Buffer> made;
  const auto failed =
      call(true, {Errc::timed_out, count * sizeof(Word) > heap->first ? Errc::too_large : Errc::timed_out}, [&] {
        if (chance(2)) {
          made = from->buffer.async_to_host_for(*lane->ref, heap->heap, time);
          return;
        }
        auto result = from->buffer.try_async_to_host_for(*lane->ref, heap->heap, time);
        if (!result) throw result.error();
        made = std::move(*result);
      });
  if (failed) return;
  auto memory = adopt(*heap, *made, count, false);
  memory->content.resize(count);
  memory->known = count == 0;
  buffers_.push_back({std::move(*made), memory});
  if (count != 0) enqueued(*lane, {from->memory, memory, 0, 0, count, false});
}

}  // namespace model
