#include "streams/timeline.hpp"

#include <algorithm>
#include <new>
#include <thread>
#include <utility>

#include "base/thread_number.hpp"

namespace thole::detail {
namespace {

/// Asks again and again, ever less often, until the answer is another than not_ready or the time is over.
template <class Ask>
Status ask_until(std::chrono::steady_clock::time_point deadline, Ask ask) noexcept {
  constexpr auto longest_pause = std::chrono::microseconds(1000);
  auto pause = std::chrono::microseconds(5);
  for (;;) {
    const Status status = ask();
    const auto now = std::chrono::steady_clock::now();
    if (status.code != StatusCode::not_ready || now >= deadline) return status;
    std::this_thread::sleep_for(std::min<std::chrono::nanoseconds>(pause, deadline - now));
    pause = std::min(pause * 2, longest_pause);
  }
}

}  // namespace

Timeline::Timeline(std::shared_ptr<DeviceCore> device, StreamHandle native, std::uint64_t id, Kind kind) noexcept
    : device_(std::move(device)),
      native_(native),
      id_(id),
      kind_(kind),
      thread_(kind == Kind::of_thread ? thread_number() : 0),
      exposed_(kind != Kind::own) {}

Timeline::~Timeline() {
  if (device_->of_another_process()) return;
  // A stream whose last event was refused has been kept until now, when nothing waits for it.
  destroy_native();
  // Nobody else knows it. Events that are still to be done may be recorded again by whoever gets them next.
  while (!pending_.empty()) recycle(pending_.pop_oldest());
  for (Ticket* const ticket : free_) {
    device_->events.give(ticket->event);
    delete ticket;
  }
}

bool Timeline::of_another_thread() const noexcept { return kind_ == Kind::of_thread && thread_ != thread_number(); }

// ---- Calls on the native stream

bool Timeline::enter() noexcept {
  if ((calls_.fetch_add(1, std::memory_order_acquire) & closed) == 0) return true;
  leave();
  return false;
}

void Timeline::leave() noexcept {
  if (calls_.fetch_sub(1, std::memory_order_acq_rel) == (closed | 1)) destroy_native();
}

bool Timeline::end() noexcept {
  if (device_->lost()) {
    close();
    return true;
  }
  const auto before = issued();
  const auto last = issue();
  Status status = cover(last);
  if (!status.ok()) status = cover(last);  // a driver may refuse one call and take the next
  // In a capture no event can be had; none is needed where all uses have theirs.
  const bool needs_none =
      status.code == StatusCode::capture && (done(before) || recorded_.load(std::memory_order_acquire) >= before);
  if (!status.ok()) device_->keep_error(status, "~Stream", "recording its last event");
  if (!status.ok() && !needs_none) return false;
  last_position_.store(status.ok() ? last : before, std::memory_order_release);
  close();
  return true;
}

void Timeline::close() noexcept {
  if (calls_.fetch_or(closed, std::memory_order_acq_rel) == 0) destroy_native();
}

/// Closed, and the last call has left: a later one finds it closed, but may come here again.
void Timeline::destroy_native() noexcept {
  if (kind_ != Kind::own || destroyed_.exchange(true, std::memory_order_relaxed)) return;
  if (const Status status = device_->backend->destroy_stream(native_); !status.ok())
    device_->keep_error(status, "~Stream", "destroying the stream");
}

Status Timeline::capture_info(CaptureInfo* info) noexcept {
  *info = {};
  return may_capture() ? device_->note(device_->backend->capture_info(native_, info)) : Status{};
}

// ---- Events

Status Timeline::take_ticket(Ticket** ticket) noexcept {
  {
    const std::scoped_lock lock(mutex_);
    if (!free_.empty()) {
      *ticket = free_.back();
      free_.pop_back();
      return {};
    }
  }
  auto* const made = new (std::nothrow) Ticket;
  if (made == nullptr) return {StatusCode::out_of_memory};
  if (const Status status = device_->note(device_->events.take(&made->event)); !status.ok()) {
    delete made;
    return status;
  }
  *ticket = made;
  return {};
}

/// Nobody refers to the ticket, and it is in no list. Under the mutex, or alone.
void Timeline::recycle(Ticket* ticket) noexcept {
  ticket->pending = false;
  ticket->done.store(false, std::memory_order_relaxed);
  try {
    if (!ticket->broken && free_.size() < most_free_) {
      free_.push_back(ticket);
      return;
    }
  } catch (const std::bad_alloc&) {
    // It goes the way of those that are too many.
  }
  ticket->broken ? device_->events.discard(ticket->event) : device_->events.give(ticket->event);
  delete ticket;
}

Status Timeline::reserve(Ticket** ticket) noexcept { return take_ticket(ticket); }

void Timeline::give_back(Ticket* ticket) noexcept {
  const std::scoped_lock lock(mutex_);
  recycle(ticket);
}

void Timeline::release(Ticket* ticket) noexcept {
  const std::scoped_lock lock(mutex_);
  if (--ticket->references == 0 && !ticket->pending) recycle(ticket);
}

Status Timeline::check_no_capture() noexcept {
  CaptureInfo info;
  const Status status = capture_info(&info);
  return status.ok() && info.state != CaptureInfo::State::none ? Status{StatusCode::capture} : status;
}

/// Under `recording_`, and in a Call. An event that is recorded while the stream captures becomes part of somebody's
/// graph and answers nothing, so that captures are asked for before and after: another thread may begin one in between.
/// One that begins and ends in between makes an event that is found broken when it is asked (finish_asking).
Status Timeline::record_locked(Ticket* ticket, CaptureInfo* after) noexcept {
  bool room = false;
  {
    const std::scoped_lock lock(mutex_);
    room = pending_.reserve();
  }
  if (!room) return {StatusCode::out_of_memory};
  const auto position = issued();  // all of it was enqueued before
  bytes_since_ticket_.store(0, std::memory_order_relaxed);
  Status status = device_->note(device_->backend->record_event(ticket->event, native_));
  ticket->broken = !status.ok();
  if (status.ok()) status = capture_info(after);
  if (status.ok() && after->state != CaptureInfo::State::none) status = {StatusCode::capture};
  if (!status.ok()) return status;
  const std::scoped_lock lock(mutex_);
  ticket->serial = ++last_serial_;
  ticket->position = position;
  ticket->pending = true;
  pending_.append(ticket);
  recorded_.store(position, std::memory_order_release);
  return {};
}

Status Timeline::record(Ticket** ticket) noexcept {
  const Call call(*this);
  if (!call) return {StatusCode::invalid};
  Ticket* made = nullptr;
  if (const Status status = take_ticket(&made); !status.ok()) return status;
  made->references = 1;
  CaptureInfo after;
  Status status = check_no_capture();
  if (status.ok()) {
    const std::scoped_lock recording(recording_);
    status = record_locked(made, &after);
  }
  if (!status.ok()) {
    made->references = 0;
    give_back(made);
    return status;
  }
  *ticket = made;
  ask_if_many();
  return {};
}

Status Timeline::record_reserved(Ticket* ticket, CaptureInfo* after) noexcept {
  *after = {};
  Status status;
  {
    const std::scoped_lock recording(recording_);
    status = record_locked(ticket, after);
  }
  if (!status.ok())
    give_back(ticket);
  else
    ask_if_many();
  return status;
}

Status Timeline::cover(std::uint64_t position) noexcept {
  const auto is_covered = [&] { return recorded_.load(std::memory_order_acquire) >= position || done(position); };
  if (is_covered()) return {};
  const Call call(*this);
  if (!call) return {StatusCode::invalid};
  Ticket* ticket = nullptr;
  if (const Status status = take_ticket(&ticket); !status.ok()) return status;
  Status status;
  {
    const std::scoped_lock recording(recording_);
    if (!is_covered()) {  // another thread may have covered it
      CaptureInfo after;
      status = check_no_capture();
      if (status.ok()) status = record_locked(ticket, &after);
      if (status.ok()) ticket = nullptr;
    }
  }
  if (ticket != nullptr)
    give_back(ticket);
  else
    ask_if_many();
  return status;
}

/// By a thread that is not in a call on the stream. A foreign one may be gone: its uses have their events already, or
/// get them with the program's next call on it.
Status Timeline::cover_for_others(std::uint64_t position) noexcept { return foreign() ? Status{} : cover(position); }

void Timeline::record_if_due(std::size_t bytes) noexcept {
  // Approximate where threads share a stream: two may both find it due, or one count may be lost. Neither does harm.
  const auto since = bytes_since_ticket_.load(std::memory_order_relaxed) + bytes;
  bytes_since_ticket_.store(since, std::memory_order_relaxed);
  if (since >= bytes_per_ticket || issued() - recorded_.load(std::memory_order_relaxed) >= uses_per_ticket)
    (void)cover_all();
}

/// Where nobody waits and no block is dropped, as with one buffer that is copied for ever, nobody else finds events
/// done. One query now and then keeps their number in proportion to what is in flight.
void Timeline::ask_if_many() noexcept {
  Lock lock(mutex_);
  if (pending_.size() < ask_beyond_) return;
  (void)ask(pending_[pending_.size() / 2], lock, nullptr);
  ask_beyond_ = std::max(least_asked_, 2 * pending_.size());
}

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
    if (--ticket_->references == 0 && !ticket_->pending) timeline_.recycle(ticket_);
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
void Timeline::complete(std::uint64_t serial, std::uint64_t position) noexcept {
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
    if (!ticket->done.load(std::memory_order_relaxed)) complete(ticket->serial, ticket->position);
  } else if (status.code == StatusCode::capture || status.code == StatusCode::invalid) {
    set_aside(ticket);
    return {StatusCode::capture, status.native};
  }
  return status;
}

/// Asks for the ticket, or waits for it where `deadline` is given; the mutex is unlocked meanwhile.
Status Timeline::ask(Ticket* ticket, Lock& lock, const Deadline* deadline) noexcept {
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

/// Asks for the position, or waits for it.
Status Timeline::resolve(std::uint64_t position, const Deadline* deadline) noexcept {
  // A broken event was set aside: another one covers the position next time. Not for ever, in the face of a program
  // that captures again and again.
  constexpr int most_tries = 4;
  Status status;
  for (int tries = 0; tries != most_tries; ++tries) {
    if (done(position)) return {};
    if (device_->lost()) return {StatusCode::device_lost};
    if (status = cover_for_others(position); !status.ok()) return status;
    Lock lock(mutex_);
    if (done(position)) return {};  // since then: the ticket is gone, and the next one may be done much later
    Ticket* const ticket = covering(position);
    if (ticket == nullptr) {
      status = not_covered();
      continue;
    }
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
  const Call call(*this);
  if (!call) return {StatusCode::invalid};
  if (const Status status = check_no_capture(); !status.ok()) return status;
  const auto position = issued();
  std::uint64_t serial = 0;
  {
    const std::scoped_lock lock(mutex_);
    serial = last_serial_;
  }
  Status status;
  {
    const CaptureGuard guard(*device_->backend);
    status = device_->note(device_->backend->synchronize_stream(native_));
  }
  if (!status.ok()) return status;
  const std::scoped_lock lock(mutex_);
  complete(serial, position);
  return status;
}

Status Timeline::order_before(Timeline& waiter, std::uint64_t position) noexcept {
  if (done(position)) return {};
  if (device_->lost()) return {StatusCode::device_lost};  // the waiter, perhaps another device's, would wait for ever
  if (const Status status = cover_for_others(position); !status.ok()) return status;
  Lock lock(mutex_);
  if (done(position)) return {};
  Ticket* const ticket = covering(position);
  if (ticket == nullptr) return not_covered();
  const Pin pin(*this, ticket, lock);
  // CUDA: "Event Management", cudaStreamWaitEvent: the wait is for the event as it is recorded now, so that the ticket
  // may serve again once the call has returned.
  return waiter.device()->backend->wait_event(waiter.native(), ticket->event);
}

Status Timeline::order_before(Timeline& waiter, Ticket* ticket) noexcept {
  if (ticket->done.load(std::memory_order_acquire)) return {};
  if (device_->lost()) return {StatusCode::device_lost};
  return waiter.device()->backend->wait_event(waiter.native(), ticket->event);
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

/// The event of the block that waits for the earliest position first: if that is not done, no block is free; if it is,
/// its blocks are enough for a look that is not thorough, at one query for all the uses that an event covers. Then the
/// newest, since often all is done. Then ever larger steps from the first on, so that one query frees many.
void Timeline::ask_for_blocks(MovingBlocks& out, bool thorough, Lock& lock) noexcept {
  std::size_t step = 0;
  bool asked_newest = false;
  for (unsigned asked = 0; !blocks_.empty() && (thorough || asked != bounded_queries); ++asked) {
    const std::size_t first = pending_.first_covering(blocks_.first_position());
    if (first == pending_.size()) return;
    const std::size_t last = pending_.size() - 1;
    const bool newest = step == 1 && !std::exchange(asked_newest, asked_newest || step == 1);
    const std::size_t index = newest ? last : std::min(first + step, last);
    const Status status = ask(pending_[index], lock, nullptr);
    take_done(out);
    if (status.ok()) {
      if (!thorough && !out.empty()) return;
      step = step == 0 ? 1 : step * 2;
    } else if (status.code != StatusCode::not_ready) {
      return;
    } else if (index == first) {
      refused_at_ = recorded_.load(std::memory_order_relaxed);
      return;
    } else {
      step = 0;
    }
  }
}

void Timeline::reclaim(MovingBlocks& out, bool thorough) noexcept {
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
    if (thorough && !blocks_.empty()) uncovered = last_wanted_;
  }
  if (device_->lost()) return;
  if (uncovered != 0) (void)cover_for_others(uncovered);
  Lock lock(mutex_);
  // A look that is not thorough and found nothing is not repeated before there is something new to ask about.
  if (thorough || refused_at_ == 0 || refused_at_ != recorded_.load(std::memory_order_relaxed))
    ask_for_blocks(out, thorough, lock);
  if (thorough && blocks_.empty() && !pending_.empty()) (void)ask(pending_.newest(), lock, nullptr);
}

}  // namespace thole::detail
