#include "streams/timeline.hpp"

#include <new>
#include <thread>
#include <utility>

namespace thole::detail {

// ---- Making and ending

void Timeline::open(std::shared_ptr<DeviceCore> device, StreamHandle native, std::uint64_t id, bool foreign) noexcept {
  device_.store(device.get(), std::memory_order_release);
  device_reference_ = device;
  native_ = native;
  foreign_ = foreign;
  exposed_.store(foreign, std::memory_order_relaxed);
  last_id_.store(id, std::memory_order_relaxed);
  id_.store(id, std::memory_order_release);
}

void Timeline::close() noexcept { id_.store(0, std::memory_order_seq_cst); }

void Timeline::wait_for_visits() const noexcept {
  while (visits_.load(std::memory_order_seq_cst) != 0) std::this_thread::yield();
}

bool Timeline::idle() noexcept {
  const std::scoped_lock lock(mutex_);
  return id_.load(std::memory_order_seq_cst) == 0 && visits_.load(std::memory_order_seq_cst) == 0 &&
         oldest_ == nullptr && uncovered_.empty() && lent_ == 0 &&
         dropped_.load(std::memory_order_acquire) == nullptr && !polling_.load(std::memory_order_acquire) &&
         done(issued());
}

void Timeline::destroy_events(DeviceBackend& backend) noexcept {
  Ticket* ticket = nullptr;
  {
    const std::scoped_lock lock(mutex_);
    ticket = std::exchange(free_, nullptr);
  }
  while (ticket != nullptr) {
    Ticket* const next_ticket = ticket->after;
    (void)backend.destroy_event(ticket->event);
    delete ticket;
    ticket = next_ticket;
  }
}

// ---- Events

Status Timeline::not_covered() const noexcept {
  const DeviceCore* const core = device();
  return {core->lost() ? StatusCode::device_lost : StatusCode::capture};
}

Status Timeline::take_ticket(Ticket** ticket) noexcept {
  {
    const std::scoped_lock lock(mutex_);
    if (free_ != nullptr) {
      *ticket = free_;
      free_ = free_->after;
      return {};
    }
  }
  auto* const made = new (std::nothrow) Ticket;
  if (made == nullptr) return {StatusCode::out_of_memory};
  const Status status = device()->note(device()->backend->create_event(&made->event));
  if (!status.ok()) {
    delete made;
    return status;
  }
  made->timeline = this;
  *ticket = made;
  return {};
}

Status Timeline::reserve(Ticket** ticket) noexcept { return take_ticket(ticket); }

void Timeline::give_back(Ticket* ticket) noexcept {
  const std::scoped_lock lock(mutex_);
  ticket->after = free_;
  free_ = ticket;
}

Status Timeline::check_no_capture() noexcept {
  if (!may_capture()) return {};
  CaptureInfo info;
  const Status status = device()->note(device()->backend->capture_info(native_, &info));
  return status.ok() && info.state != CaptureInfo::State::none ? Status{StatusCode::capture} : status;
}

Status Timeline::record_into(Ticket* ticket) noexcept {
  if (id() == 0) return {StatusCode::invalid};
  // An event recorded while the stream captures becomes part of the user's graph and answers nothing. Asked again
  // afterwards, since another thread may begin a capture in between: then the ticket counts for nothing.
  if (const Status status = check_no_capture(); !status.ok()) return status;
  bytes_since_ticket_.store(0, std::memory_order_relaxed);
  ticket->position = issue();
  Status status = device()->note(device()->backend->record_event(ticket->event, native_));
  if (status.ok()) status = check_no_capture();
  if (!status.ok()) pass_over(ticket->position);
  return status;
}

void Timeline::pass_over(std::uint64_t position) noexcept {
  const std::scoped_lock lock(mutex_);
  const auto recorded = recorded_.load(std::memory_order_relaxed);
  if (recorded < position && (recorded == position - 1 || done(position - 1)))
    recorded_.store(position, std::memory_order_release);
}

Status Timeline::record_reserved(Ticket* ticket) noexcept {
  const Visit visit(*this);
  return record_taken(ticket);
}

Status Timeline::record_taken(Ticket* ticket) noexcept {
  const Status status = record_into(ticket);
  if (!status.ok()) {
    give_back(ticket);
    return status;
  }
  insert(ticket);
  return {};
}

Status Timeline::record() noexcept {
  const Visit visit(*this);
  Ticket* ticket = nullptr;
  const Status status = take_ticket(&ticket);
  return status.ok() ? record_taken(ticket) : status;
}

Status Timeline::record_ticket(Ticket** ticket) noexcept {
  const Visit visit(*this);
  Ticket* made = nullptr;
  Status status = take_ticket(&made);
  if (!status.ok()) return status;
  status = record_into(made);
  if (!status.ok()) {
    give_back(made);
    return status;
  }
  made->references = 1;  // nobody else sees it yet
  {
    const std::scoped_lock lock(mutex_);
    ++lent_;
  }
  insert(made);
  *ticket = made;
  return {};
}

void Timeline::release_ticket(Ticket* ticket) noexcept {
  const std::scoped_lock lock(mutex_);
  unpin(ticket);
}

void Timeline::record_if_due(std::size_t bytes) noexcept {
  // Approximate where threads share a stream: two may both find it due, or one count may be lost. Neither does harm.
  const auto since = bytes_since_ticket_.load(std::memory_order_relaxed) + bytes;
  bytes_since_ticket_.store(since, std::memory_order_relaxed);
  if (since >= bytes_per_ticket || issued() - recorded_.load(std::memory_order_relaxed) >= uses_per_ticket)
    (void)record();
}

Status Timeline::cover(std::uint64_t position) noexcept {
  if (recorded_.load(std::memory_order_acquire) >= position || done(position)) return {};
  const Status status = record();
  // A failed record may have been beaten by another thread's.
  return status.ok() || recorded_.load(std::memory_order_acquire) >= position ? Status{} : status;
}

void Timeline::insert(Ticket* ticket) noexcept {
  std::shared_ptr<DeviceCore> keep = device_reference_.lock();
  const std::scoped_lock lock(mutex_);
  ticket->pending = true;
  Ticket* before = newest_;
  while (before != nullptr && before->position > ticket->position) before = before->before;
  ticket->before = before;
  ticket->after = before != nullptr ? before->after : oldest_;
  (ticket->before != nullptr ? ticket->before->after : oldest_) = ticket;
  (ticket->after != nullptr ? ticket->after->before : newest_) = ticket;
  if (keep_ == nullptr && keep != nullptr) {
    keep_ = std::move(keep);
    keep_->orphan_references.fetch_add(1, std::memory_order_relaxed);
  }
  // Blocks wait for the first ticket that covers them; those that waited for any have one now.
  if (uncovered_last_ <= ticket->position) {
    ticket->blocks.splice(uncovered_);
    uncovered_last_ = 0;
  } else {
    BlockList rest;
    while (Block* const block = uncovered_.pop())
      (block->wait_position <= ticket->position ? ticket->blocks : rest).push(block);
    uncovered_.splice(rest);
  }
  if (recorded_.load(std::memory_order_relaxed) < ticket->position)
    recorded_.store(ticket->position, std::memory_order_release);
  waiting_.store(true, std::memory_order_release);
}

void Timeline::unpin(Ticket* ticket) noexcept {
  --lent_;
  if (--ticket->references == 0 && !ticket->pending) {
    ticket->after = free_;
    free_ = ticket;
  }
}

void Timeline::complete(std::uint64_t position) noexcept {
  if (completed_.load(std::memory_order_relaxed) < position) completed_.store(position, std::memory_order_release);
}

Ticket* Timeline::first_covering(std::uint64_t position) noexcept {
  Ticket* found = nullptr;
  for (Ticket* ticket = newest_; ticket != nullptr && ticket->position >= position; ticket = ticket->before)
    found = ticket;
  return found;
}

// ---- Waiting

Status Timeline::ask(Ticket* ticket, std::unique_lock<std::mutex>& lock) noexcept {
  ++ticket->references;
  ++lent_;
  lock.unlock();
  Status status;
  {
    DeviceCore& core = *device();
    const CaptureGuard guard(*core.backend);
    status = core.note(core.backend->query_event(ticket->event));
  }
  lock.lock();
  if (status.ok()) complete(ticket->position);
  unpin(ticket);
  return status;
}

Status Timeline::query(std::uint64_t position) noexcept {
  if (done(position)) return {};
  if (device()->lost()) return {StatusCode::device_lost};
  if (const Status status = cover(position); !status.ok()) return status;
  std::unique_lock lock(mutex_);
  if (done(position)) return {};  // since then: the ticket is gone, and the next one may be done much later
  Ticket* const ticket = first_covering(position);
  if (ticket == nullptr) return not_covered();
  return ask(ticket, lock);
}

Status Timeline::wait(std::uint64_t position) noexcept {
  if (done(position)) return {};
  DeviceCore& core = *device();
  if (core.lost()) return {StatusCode::device_lost};
  if (const Status status = cover(position); !status.ok()) return status;
  std::unique_lock lock(mutex_);
  if (done(position)) return {};
  Ticket* const ticket = first_covering(position);
  if (ticket == nullptr) return not_covered();
  ++ticket->references;
  ++lent_;
  lock.unlock();
  Status status;
  {
    const CaptureGuard guard(*core.backend);
    status = core.note(core.backend->synchronize_event(ticket->event));
  }
  lock.lock();
  if (status.ok()) complete(ticket->position);
  unpin(ticket);
  return status;
}

void Timeline::finish(std::uint64_t position) noexcept {
  const std::scoped_lock lock(mutex_);
  complete(position);
}

Status Timeline::order_before(DeviceBackend& backend, StreamHandle waiter, std::uint64_t position) noexcept {
  if (done(position)) return {};
  if (device()->lost()) return {StatusCode::device_lost};  // the waiter, perhaps another device's, would wait for ever
  if (const Status status = cover(position); !status.ok()) return status;
  std::unique_lock lock(mutex_);
  if (done(position)) return {};
  Ticket* const ticket = first_covering(position);
  if (ticket == nullptr) return not_covered();
  ++ticket->references;
  ++lent_;
  lock.unlock();
  // CUDA: "Event Management", cudaStreamWaitEvent: the wait is for the event as it is recorded now, so that the ticket
  // may serve again once the call has returned.
  const Status status = backend.wait_event(waiter, ticket->event);
  lock.lock();
  unpin(ticket);
  return status;
}

// ---- Blocks that wait

void Timeline::push(Block* block) noexcept {
  block->next = dropped_.load(std::memory_order_relaxed);
  while (!dropped_.compare_exchange_weak(block->next, block, std::memory_order_release, std::memory_order_relaxed)) {
  }
}

bool Timeline::has_work() const noexcept {
  // In this order, against absorb_dropped(); acquire: who is told that there is none sees that the last are in transit.
  return dropped_.load(std::memory_order_acquire) != nullptr || waiting_.load(std::memory_order_acquire);
}

void Timeline::absorb_dropped(MovingBlocks& out) noexcept {
  if (dropped_.load(std::memory_order_relaxed) == nullptr) return;
  waiting_.store(true, std::memory_order_relaxed);  // released by the exchange; retire() says what is left
  Block* block = dropped_.exchange(nullptr, std::memory_order_acq_rel);
  while (block != nullptr) {
    Block* const following = block->next;
    if (done(block->wait_position)) {
      out.push(block);
    } else if (Ticket* const ticket = first_covering(block->wait_position); ticket != nullptr) {
      ticket->blocks.push(block);
    } else {
      uncovered_.push(block);
      if (uncovered_last_ < block->wait_position) uncovered_last_ = block->wait_position;
    }
    block = following;
  }
}

void Timeline::take_done(BlockList& from, MovingBlocks& out) noexcept {
  BlockList rest;
  while (Block* const block = from.pop())
    if (done(block->wait_position))
      out.push(block);
    else
      rest.push(block);
  from.splice(rest);
}

void Timeline::remove(Ticket* ticket) noexcept {
  (ticket->before != nullptr ? ticket->before->after : oldest_) = ticket->after;
  (ticket->after != nullptr ? ticket->after->before : newest_) = ticket->before;
  ticket->before = ticket->after = nullptr;
  ticket->pending = false;
  if (ticket->references == 0) {
    ticket->after = free_;
    free_ = ticket;
  }
}

void Timeline::retire(MovingBlocks& out, std::shared_ptr<DeviceCore>& keep) noexcept {
  while (oldest_ != nullptr && done(oldest_->position)) {
    Ticket* const ticket = oldest_;
    out.splice(ticket->blocks);
    remove(ticket);
  }
  waiting_.store(oldest_ != nullptr || !uncovered_.empty(), std::memory_order_release);
  if (oldest_ == nullptr && keep_ != nullptr) {
    keep_->orphan_references.fetch_sub(1, std::memory_order_relaxed);
    keep = std::move(keep_);
  }
}

void Timeline::query_tickets(MovingBlocks& out, bool thorough, std::shared_ptr<DeviceCore>& keep,
                             std::unique_lock<std::mutex>& lock) noexcept {
  // The oldest first: if it is not done, nothing is; if it is, its blocks are enough for a poll that is not thorough,
  // at one query for all the uses that a ticket covers. Then the newest, since often all is. Then ever larger steps
  // from the oldest on, so that one query retires many.
  enum class Ask { oldest, newest, ahead } turn = Ask::oldest;
  std::size_t ahead = 1;
  for (unsigned asked = 0; oldest_ != nullptr && (thorough || asked != bounded_queries); ++asked) {
    Ticket* ticket = turn == Ask::newest ? newest_ : oldest_;
    if (turn == Ask::ahead)
      for (std::size_t i = 1; i < ahead && ticket->after != nullptr; ++i) ticket = ticket->after;
    const bool was_oldest = ticket == oldest_;
    const Status status = ask(ticket, lock);
    retire(out, keep);
    if (status.ok()) {
      if (!thorough && !out.empty()) return;
      if (turn == Ask::ahead) ahead *= 2;
      if (turn == Ask::oldest) turn = Ask::newest;
    } else if (status.code != StatusCode::not_ready) {
      return;
    } else if (was_oldest) {
      failed_at_ = recorded_.load(std::memory_order_relaxed);
      return;
    } else {
      turn = Ask::ahead;
      ahead = 1;
    }
  }
}

void Timeline::poll(MovingBlocks& out, bool thorough) noexcept {
  while (polling_.exchange(true, std::memory_order_acquire)) {
    if (!thorough) return;
    polling_.wait(true, std::memory_order_relaxed);
  }
  std::shared_ptr<DeviceCore> keep;  // let go of last: it may be the last reference to the device
  bool cover_now = false;
  {
    std::unique_lock lock(mutex_);
    absorb_dropped(out);
    if (thorough) take_done(uncovered_, out);
    retire(out, keep);
    cover_now = thorough && !uncovered_.empty();
  }
  DeviceCore* const core = device();
  if (core != nullptr && !core->lost() && id() != 0 && cover_now) (void)record();
  if (core != nullptr && !core->lost()) {
    std::unique_lock lock(mutex_);
    // A bounded poll that failed is not repeated before there is something new to ask about.
    if (thorough || failed_at_ == 0 || failed_at_ != recorded_.load(std::memory_order_relaxed))
      query_tickets(out, thorough, keep, lock);
    if (const auto now = completed_.load(std::memory_order_relaxed);
        thorough && oldest_ != nullptr && std::exchange(taken_at_, now) != now)
      take_done(oldest_->blocks, out);
  }
  polling_.store(false, std::memory_order_release);
  polling_.notify_one();
}

}  // namespace thole::detail
