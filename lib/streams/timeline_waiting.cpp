// A timeline's second half: asking for events and waiting for them, and the blocks that wait.

#include "streams/timeline.hpp"

#include <algorithm>
#include <utility>

#include "backend/ask_until.hpp"
#include "backend/capture_guard.hpp"
#include "base/trace_log.hpp"

namespace thole::inline v0_1::detail {
namespace {

// A broken event was set aside: another one covers the position next time. Not for ever, in the face of a program that
// captures again and again.
constexpr int most_tries = 4;

}  // namespace

// ---- Waiting

/// Holds a ticket while the mutex is unlocked for a call.
class Timeline::Pin {
 public:
  Pin(Timeline& timeline, Ticket* ticket, Lock& lock) noexcept : timeline_(timeline), ticket_(ticket), lock_(lock) {
    ++ticket->references;
    lock.unlock();
  }
  ~Pin() {
    if (!lock_.owns_lock()) lock_.lock();
    if (--ticket_->references != 0 || ticket_->pending) return;
    timeline_.let_go(ticket_, lock_);
    if (!lock_.owns_lock()) lock_.lock();
  }
  Pin(const Pin&) = delete;
  Pin& operator=(const Pin&) = delete;

 private:
  Timeline& timeline_;
  Ticket* const ticket_;
  Lock& lock_;
};

Status Timeline::not_covered() const noexcept {
  return {device_->lost() ? StatusCode::device_lost : StatusCode::capture};
}

Ticket* Timeline::covering(std::uint64_t position) noexcept {
  const auto index = pending_.first_covering(position);
  return index < pending_.size() ? pending_[index] : nullptr;
}

/// All events up to this one are done. Under the mutex.
void Timeline::complete(std::uint64_t serial, std::uint64_t position, std::uint64_t operations) noexcept {
  completed_operations_ = std::max(completed_operations_, operations);
  if (completed_.load(std::memory_order_relaxed) < position) completed_.store(position, std::memory_order_release);
  while (!pending_.empty() && pending_.oldest()->serial <= serial) {
    Ticket* const ticket = pending_.pop_oldest();
    ticket->pending = false;
    ticket->done.store(true, std::memory_order_release);
    if (ticket->references == 0) recycle(ticket);
  }
}

/// The ticket's event is broken: what it was to cover must be covered anew. Under the mutex.
void Timeline::set_aside(Ticket* ticket) noexcept {
  if (!ticket->pending) return;
  pending_.remove(ticket);
  ticket->pending = false;
  ticket->broken = true;
  const auto covered = pending_.empty() ? completed_.load(std::memory_order_relaxed) : pending_.newest()->position;
  recorded_.store(std::max(covered, completed_.load(std::memory_order_relaxed)), std::memory_order_release);
}

/// Under the mutex, after a call about the ticket's event.
Status Timeline::finish_asking(Ticket* ticket, Status status) noexcept {
  if (status.ok()) {
    if (!ticket->done.load(std::memory_order_relaxed)) complete(ticket->serial, ticket->position, ticket->operations);
  } else if (status.code == StatusCode::capture || status.code == StatusCode::invalid) {
    set_aside(ticket);
    return {StatusCode::capture, status.native};
  }
  return status;
}

/// Asks for the ticket, or waits for it where `deadline` is given; the mutex is unlocked meanwhile.
Status Timeline::ask(Ticket* ticket, Lock& lock, const Deadline* deadline) noexcept {
  const TraceScope scope(deadline != nullptr ? "wait for the device" : nullptr, 0, native_);
  const Pin pin(*this, ticket, lock);
  DeviceBackend& backend = *device_->backend;
  Status status;
  {
    const CaptureGuard guard(backend);
    if (deadline == nullptr)
      status = backend.query_event(ticket->event);
    else if (*deadline)
      status = ask_until(**deadline, [&] { return backend.query_event(ticket->event); });
    else
      status = backend.synchronize_event(ticket->event);
    (void)device_->note(status);
  }
  lock.lock();
  return finish_asking(ticket, status);
}

/// Whether an event that comes before the position, which has none, is still to be done.
bool Timeline::is_behind_pending(std::uint64_t position) noexcept {
  if (is_covered(position)) return false;
  Lock lock(mutex_);
  return !pending_.empty() && ask(pending_.newest(), lock, nullptr).code == StatusCode::not_ready;
}

/// Asks for the position, or waits for it.
Status Timeline::resolve(std::uint64_t position, const Deadline* deadline) noexcept {
  Status status;
  for (int tries = 0; tries < most_tries;) {
    if (done(position)) return {};
    if (device_->lost()) return {StatusCode::device_lost};
    // Who only asks needs no event to know, and one more could have to wait for room in the queue.
    if (deadline == nullptr && is_behind_pending(position)) return {StatusCode::not_ready};
    // Who waits for a time waits no longer than that for room.
    if (deadline != nullptr && *deadline && !is_covered(position) && !foreign())
      if (status = wait_for_room(*deadline); !status.ok()) return status;
    if (status = cover_for_others(position); !status.ok()) return status;
    Lock lock(mutex_);
    if (done(position)) return {};  // since then: the ticket is gone, and the next one may be done much later
    Ticket* const ticket = covering(position);
    if (ticket == nullptr) {
      status = not_covered();
      ++tries;
      continue;
    }
    // However many there are that were broken before, each is gone for good now.
    if (ticket == pending_.newest()) ++tries;
    status = ask(ticket, lock, deadline);
    if (status.code != StatusCode::capture) return status;
  }
  return status;
}

Status Timeline::query(std::uint64_t position) noexcept { return resolve(position, nullptr); }

Status Timeline::wait(std::uint64_t position, const Deadline& deadline) noexcept {
  return resolve(position, &deadline);
}

Status Timeline::query(Ticket* ticket) noexcept {
  if (ticket->done.load(std::memory_order_acquire)) return {};
  if (device_->lost()) return {StatusCode::device_lost};
  Lock lock(mutex_);
  return ticket->broken ? not_covered() : ask(ticket, lock, nullptr);
}

Status Timeline::wait(Ticket* ticket, const Deadline& deadline) noexcept {
  if (ticket->done.load(std::memory_order_acquire)) return {};
  if (device_->lost()) return {StatusCode::device_lost};
  Lock lock(mutex_);
  return ticket->broken ? not_covered() : ask(ticket, lock, &deadline);
}

Status Timeline::synchronize() noexcept {
  const TraceScope scope("wait for a stream", 0, native_);
  const Call call(*this);
  if (!call) return {StatusCode::invalid};
  struct Synchronizing {
    Timeline& timeline;
    Status status;
    explicit Synchronizing(Timeline& t) noexcept : timeline(t) {
      const NoCapture quiet(t);
      status = quiet.status();
      ++t.synchronizing_;
    }
    ~Synchronizing() {
      const std::scoped_lock lock(timeline.beginning_);
      --timeline.synchronizing_;
    }
  } const synchronizing(*this);
  if (!synchronizing.status.ok()) return synchronizing.status;
  if (device_->events.blocking()) {  // waiting for the stream itself would spin
    Ticket* end = nullptr;
    if (const Status status = record(&end); !status.ok()) return status;
    const Status status = wait(end);
    release(end);
    return status;
  }
  std::uint64_t serial = 0;
  {
    const std::scoped_lock lock(mutex_);
    serial = last_serial_;
  }
  // In this order: no event up to the serial covers a later position, which would then count as covered for ever.
  const auto position = issued();
  const auto before = operations();
  Status status;
  {
    const CaptureGuard guard(*device_->backend);
    status = device_->note(device_->backend->synchronize_stream(native_));
  }
  if (!status.ok()) return status;
  const std::scoped_lock lock(mutex_);
  complete(serial, position, before);
  return status;
}

/// Not where the stream captures: it would be the graph that waits.
Status Timeline::waits_already(const Timeline& before, std::uint64_t position, bool* already) noexcept {
  const std::scoped_lock lock(beginning_);
  if (!waited_for_.covers(before.number_, position)) return {};
  const Status quiet = check_no_capture();
  *already = quiet.ok();
  return quiet;
}

Status Timeline::order_before(Timeline& waiter, std::uint64_t position) noexcept {
  Status status;
  for (int tries = 0; tries < most_tries;) {
    if (done(position)) return {};
    if (device_->lost()) return {StatusCode::device_lost};  // the waiter, perhaps another device's, would wait for ever
    bool already = false;
    if (status = waiter.waits_already(*this, position, &already); !status.ok() || already) return status;
    if (status = cover_for_others(position); !status.ok()) return status;
    Lock lock(mutex_);
    if (done(position)) return {};
    Ticket* const ticket = covering(position);
    if (ticket == nullptr) {
      status = not_covered();
      ++tries;
      continue;
    }
    if (ticket == pending_.newest()) ++tries;  // as in resolve()
    const Pin pin(*this, ticket, lock);
    // Once more, though who comes here has asked: the wait invalidates a capture that has begun since, the program's
    // own, too.
    const NoCapture quiet(waiter);
    if (!quiet.status().ok()) return quiet.status();
    // CUDA: "Event Management", cudaStreamWaitEvent: the wait is for the event as it is recorded now, so that the
    // ticket may serve again once the call has returned.
    status = waiter.device()->backend->wait_event(waiter.native(), ticket->event);
    waiter.count_without_position();
    if (status.ok()) waiter.now_waits_for(*this, *ticket);
    if (status.code != StatusCode::capture && status.code != StatusCode::invalid) return status;
    // The waiter captures since a moment ago, or a capture took the event: the event itself says.
    lock.lock();
    if (ask(ticket, lock, nullptr).code != StatusCode::capture) return status;
  }
  return status;
}

Status Timeline::order_before(Timeline& waiter, Ticket* ticket) noexcept {
  if (ticket->done.load(std::memory_order_acquire)) return {};
  if (device_->lost()) return {StatusCode::device_lost};
  const NoCapture none_begins(waiter);  // one that goes on may be what it joins
  if (ticket->capture == 0 && !none_begins.status().ok()) return none_begins.status();
  if (ticket->capture == 0) waiter.count_without_position();
  const Status status = waiter.device()->backend->wait_event(waiter.native(), ticket->event);
  if (ticket->capture == 0 && status.ok()) waiter.now_waits_for(*this, *ticket);
  return status;
}

// ---- Blocks that wait

void Timeline::absorb_retired() noexcept {
  if (retired_.empty()) return;
  waiting_.store(true, std::memory_order_relaxed);  // released by take_all(); take_done() says what is left
  for (Block* block = retired_.take_all(); block != nullptr;) {
    Block* const following = block->next;
    last_wanted_ = std::max(last_wanted_, block->wait_position);
    blocks_.push(block);
    block = following;
  }
}

void Timeline::take_done(MovingBlocks& out) noexcept {
  while (!blocks_.empty() && done(blocks_.first_position())) out.push(blocks_.pop());
  waiting_.store(!blocks_.empty(), std::memory_order_release);
}

/// The device is behind: a look that is bounded is not repeated before there is something new to ask about; and for
/// small blocks not before as much as is worth a question, which costs as much as ten drops. So many more wait then.
void Timeline::put_off_looking(bool nothing_found) noexcept {
  if (blocks_.empty()) return;  // another thread has been told meanwhile that all is done
  const bool small = blocks_.first_bytes() <= bytes_per_ticket / 4;
  const auto recorded = recorded_.load(std::memory_order_relaxed);
  if (small)
    look_again_at_ = recorded + uses_per_ticket;
  else if (nothing_found)
    look_again_at_ = recorded + 1;
}

/// A look that is bounded asks for one event, as far behind the first as the looks before found to be done: one query
/// then frees many blocks where the device is behind, and the first block alone where it has just caught up. Each event
/// that is not done halves the distance, and the first one's says that no block is free.
void Timeline::ask_for_some(MovingBlocks& out, Lock& lock) noexcept {
  for (unsigned asked = 0; !blocks_.empty() && asked != bounded_queries; ++asked) {
    const std::size_t first = pending_.first_covering(blocks_.first_position());
    if (first == pending_.size()) return;
    const std::size_t index = std::min(first + stride_, pending_.size() - 1);
    const Status status = ask(pending_[index], lock, nullptr);
    take_done(out);
    if (status.ok()) {
      stride_ = std::min(2 * stride_ + 1, most_stride_);
      if (!out.empty()) return;
      continue;
    }
    if (status.code != StatusCode::not_ready) return;
    put_off_looking(index == first);
    if (index == first) return;
    stride_ = (index - first) / 2;
  }
}

/// The event of the block that waits for the earliest position first: if that is not done, no block is free. Then the
/// newest, since often all is done. Then ever larger steps from the first on, so that one query frees many.
void Timeline::ask_for_all(MovingBlocks& out, Lock& lock) noexcept {
  std::size_t step = 0;
  bool asked_newest = false;
  while (!blocks_.empty()) {
    const std::size_t first = pending_.first_covering(blocks_.first_position());
    if (first == pending_.size()) return;
    const std::size_t last = pending_.size() - 1;
    const bool newest = step == 1 && !std::exchange(asked_newest, asked_newest || step == 1);
    const std::size_t index = newest ? last : std::min(first + step, last);
    const Status status = ask(pending_[index], lock, nullptr);
    take_done(out);
    if (status.ok()) {
      step = step == 0 ? 1 : step * 2;
    } else if (status.code != StatusCode::not_ready) {
      return;
    } else if (index == first) {
      put_off_looking(true);
      return;
    } else {
      step = 0;
    }
  }
}

/// The event that is done where the stream is not crowded; nullptr where there is none. Under the mutex.
Ticket* Timeline::crowding() noexcept {
  if (pending_.empty() || device_->lost()) return nullptr;
  const auto all = operations();
  const auto before = all > many_operations_ ? all - many_operations_ : 0;
  const bool many_operations = completed_operations_ < before;
  if (pending_.size() < many_pending_ && !many_operations) return nullptr;
  const auto by_events = pending_.size() < many_pending_ ? 0 : pending_.size() - many_pending_;
  const auto by_operations = many_operations ? std::min(pending_.first_behind(before), pending_.size() - 1) : 0;
  return pending_[std::max(by_events, by_operations)];
}

bool Timeline::is_crowded() noexcept {
  Lock lock(mutex_);
  Ticket* const ticket = crowding();
  return ticket != nullptr && ask(ticket, lock, nullptr).code == StatusCode::not_ready;
}

Status Timeline::wait_for_room(const Deadline& deadline) noexcept {
  Lock lock(mutex_);
  while (Ticket* const ticket = crowding()) {
    const Status status = ask(ticket, lock, &deadline);
    if (status.code == StatusCode::not_ready) return status;
    if (!status.ok()) break;  // recording an event says what is wrong
  }
  return {};
}

bool Timeline::is_left_behind() noexcept {
  const std::scoped_lock lock(mutex_);
  absorb_retired();
  const auto seen = std::exchange(seen_waiting_, blocks_.empty() ? 0 : blocks_.first_position());
  return seen != 0 && seen == seen_waiting_;
}

void Timeline::take_finished(MovingBlocks& out, bool thorough) noexcept {
  Lock polling(polling_, std::defer_lock);
  if (thorough)
    polling.lock();
  else if (!polling.try_lock())
    return;
  std::uint64_t uncovered = 0;
  {
    const std::scoped_lock lock(mutex_);
    absorb_retired();
    take_done(out);
    // Behind many events that are still to be done one more tells nothing yet, and recording it could block: a queue
    // that stands still fills up.
    if (thorough && !blocks_.empty() && pending_.size() < few_pending_) uncovered = last_wanted_;
  }
  if (device_->lost()) return;
  if (uncovered != 0 && !is_crowded()) (void)cover_for_others(uncovered);
  Lock lock(mutex_);
  if (thorough)
    ask_for_all(out, lock);
  else if (recorded_.load(std::memory_order_relaxed) >= look_again_at_)
    ask_for_some(out, lock);
  if (thorough && blocks_.empty() && !pending_.empty()) (void)ask(pending_.newest(), lock, nullptr);
}

}  // namespace thole::inline v0_1::detail
