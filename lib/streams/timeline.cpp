#include "streams/timeline.hpp"

#include <algorithm>
#include <mutex>
#include <new>
#include <shared_mutex>
#include <utility>

#include "base/host_function.hpp"
#include "base/thread_number.hpp"
#include "streams/stream_registry.hpp"
#include "streams/watcher.hpp"

namespace thole::inline v0_1::detail {

namespace {

std::uint64_t next_number() noexcept {
  static std::atomic<std::uint64_t> last{0};
  return last.fetch_add(1, std::memory_order_relaxed) + 1;
}

}  // namespace

Timeline::Timeline(std::shared_ptr<DeviceCore> device, StreamHandle native, std::uint64_t id, Kind kind) noexcept
    : device_(std::move(device)),
      native_(native),
      id_(id),
      number_(next_number()),
      kind_(kind),
      thread_(kind == Kind::of_thread ? thread_number() : 0),
      exposed_(kind != Kind::own),
      given_away_(kind != Kind::own) {}

Timeline::~Timeline() {
  if (device_->of_another_process()) return;
  device_->streams->forget(*this);
  // A stream whose last event was refused has been kept until now, when nothing waits for it.
  destroy_native();
  // Nobody else knows it. Events that are still to be done may be recorded again by whoever gets them next.
  while (!pending_.empty()) recycle(pending_.pop_oldest());
  for (Ticket* const ticket : free_) {
    give_event(device_, ticket->event);
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

/// Whether it takes part in a capture that another stream has begun.
bool Timeline::is_branch() noexcept {
  CaptureInfo info;
  return capture_info(&info).ok() && info.state != CaptureInfo::State::none &&
         info.id == branch_of_.load(std::memory_order_acquire);
}

bool Timeline::end() noexcept {
  if (device_->lost()) {
    close();
    return true;
  }
  if (is_crowded()) return false;  // the last event could have to wait for room
  auto last = last_position_.load(std::memory_order_relaxed);
  if (last == 0) last = issue();  // once, however often the event is refused
  last_position_.store(last, std::memory_order_release);
  Status status = cover(last);
  if (!status.ok()) status = cover(last);  // a driver may refuse one call and take the next
  if (status.code == StatusCode::capture && is_branch()) return false;  // it ends after that
  if (status.code == StatusCode::capture) {
    // A capture dies with its stream, whoever began it: a mistake that the program may ask for. Its end makes the
    // stream an ordinary one again, whatever the call answers.
    device_->keep_error(status, "~Stream", "ending the stream, which captures a graph");
    DeviceBackend& backend = *device_->backend;
    GraphHandle graph = nullptr;
    if (backend.end_capture(native_, &graph).ok()) (void)backend.destroy_graph(graph);
    status = cover(last);
  }
  // A capture that another thread begins and ends meanwhile takes the event, and only asking shows it; that records
  // another. It is the last moment for one.
  if (status.ok() && may_capture() && query(last).code == StatusCode::capture) status = {StatusCode::capture};
  // A stream that takes part in the capture of another can have no event. It needs none where all uses have theirs.
  const bool needs_none =
      status.code == StatusCode::capture && (done(last - 1) || recorded_.load(std::memory_order_acquire) >= last - 1);
  if (!status.ok()) device_->keep_error(status, "~Stream", "recording its last event");
  if (!status.ok() && !needs_none) return false;
  if (!status.ok()) last_position_.store(last - 1, std::memory_order_release);
  close();
  return true;
}

void Timeline::close() noexcept {
  if (calls_.fetch_or(closed, std::memory_order_acq_rel) == 0) destroy_native();
}

/// Closed, and the last call has left: a later one finds it closed, but may come here again.
void Timeline::destroy_native() noexcept {
  if (kind_ != Kind::own || destroyed_.exchange(true, std::memory_order_relaxed)) return;
  const Leftovers::Item gone{Leftovers::Kind::stream, native_};
  if (device_->lost() && !in_host_function()) return void(device_->leftovers.destroy(gone));  // nothing waits any more
  device_->leftovers.add(gone.kind, gone.handle);
  tidy_up(device_);
}

Status Timeline::begin_capture() noexcept {
  expose();
  const std::scoped_lock lock(beginning_);
  if (synchronizing_ != 0) return {StatusCode::not_ready};
  const std::shared_lock of_device(device_->captures_begin);
  return device_->note(device_->backend->begin_capture(native_, CaptureMode::thread_local_));
}

Status Timeline::capture_info(CaptureInfo* info) noexcept {
  *info = {};
  return may_capture() ? device_->note(device_->backend->capture_info(native_, info)) : Status{};
}

// ---- Events

Status Timeline::take_ticket(Ticket** ticket, bool timed) noexcept {
  if (!timed) {
    const std::scoped_lock lock(mutex_);
    if (!free_.empty()) {
      *ticket = free_.back();
      free_.pop_back();
      return {};
    }
  }
  auto* const made = new (std::nothrow) Ticket;
  if (made == nullptr) return {StatusCode::out_of_memory};
  made->timed = timed;
  bool is_low = false;
  if (const Status status = device_->note(device_->events.take(&made->event, timed, &is_low)); !status.ok()) {
    delete made;
    return status;
  }
  if (is_low && !device_->is_tidying()) tidy_up(device_);
  *ticket = made;
  return {};
}

/// Nobody refers to the ticket, and it is in no list. Under the mutex, or alone, or where the ticket is broken.
void Timeline::recycle(Ticket* ticket) noexcept {
  ticket->pending = false;
  ticket->done.store(false, std::memory_order_relaxed);
  try {
    if (!ticket->broken && !ticket->timed && free_.size() < most_free_) {
      free_.push_back(ticket);
      return;
    }
  } catch (const std::bad_alloc&) {
    // It goes the way of those that are too many.
  }
  if (!ticket->broken) {
    give_event(device_, ticket->event, ticket->timed);
  } else if (const Leftovers::Item gone{Leftovers::Kind::event, ticket->event}; !in_host_function()) {
    // By this thread: it may be a part of a capture that goes on. CUDA: "Graph object thread safety": no other thread
    // may touch one meanwhile.
    (void)device_->leftovers.destroy(gone);
  } else {
    device_->leftovers.add(gone.kind, gone.handle);
    tidy_up(device_);
  }
  delete ticket;
}

void Timeline::stock_up() noexcept {
  auto* const made = new (std::nothrow) Ticket;
  if (made == nullptr) return;
  if (device_->note(device_->events.take_spare(&made->event)).ok())
    give_back(made);
  else
    delete made;
}

Status Timeline::reserve(Ticket** ticket) noexcept { return take_ticket(ticket); }

void Timeline::give_back(Ticket* ticket) noexcept {
  Lock lock(mutex_);
  let_go(ticket, lock);
}

/// As recycle(), but what may block is done without the mutex: a broken event is destroyed.
void Timeline::let_go(Ticket* ticket, Lock& lock) noexcept {
  if (ticket->broken) lock.unlock();  // nobody else knows the ticket
  recycle(ticket);
}

std::uint64_t Timeline::retain(Ticket* ticket) noexcept {
  const std::scoped_lock lock(mutex_);
  ++ticket->references;
  return ticket->serial;
}

void Timeline::release(Ticket* ticket) noexcept {
  Lock lock(mutex_);
  if (--ticket->references == 0 && !ticket->pending) let_go(ticket, lock);
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
  const auto before = operations();
  bytes_since_ticket_.store(0, std::memory_order_relaxed);
  Status status = device_->note(device_->backend->record_event(ticket->event, native_));
  ticket->broken = !status.ok();
  count_without_position();
  if (status.ok()) status = capture_info(after);
  if (status.ok() && after->state != CaptureInfo::State::none) status = {StatusCode::capture};
  if (!status.ok()) return status;
  const std::scoped_lock lock(mutex_);
  ticket->serial = ++last_serial_;
  ticket->position = position;
  ticket->operations = before;
  ticket->pending = true;
  pending_.append(ticket);
  has_many_.store(pending_.size() >= ask_beyond_, std::memory_order_relaxed);
  recorded_.store(position, std::memory_order_release);
  recorded_operations_.store(before, std::memory_order_relaxed);
  return {};
}

Status Timeline::record(Ticket** ticket, bool timed) noexcept {
  const Call call(*this);
  if (!call) return {StatusCode::invalid};
  Ticket* made = nullptr;
  if (const Status status = take_ticket(&made, timed); !status.ok()) return status;
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

Status Timeline::record_captured(std::uint64_t capture, Ticket** ticket) noexcept {
  const Call call(*this);
  if (!call) return {StatusCode::invalid};
  Ticket* made = nullptr;
  if (const Status status = take_ticket(&made); !status.ok()) return status;
  // What it was recorded for ends with the capture: it serves nobody else.
  made->broken = true;
  made->capture = capture;
  const Status status = device_->note(device_->backend->record_event(made->event, native_));
  if (!status.ok()) {
    give_back(made);
    return status;
  }
  made->references = 1;
  *ticket = made;
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

bool Timeline::is_covered(std::uint64_t position) const noexcept {
  return recorded_.load(std::memory_order_acquire) >= position || done(position);
}

Status Timeline::cover(std::uint64_t position) noexcept {
  if (is_covered(position)) return {};
  const Call call(*this);
  return call ? cover_in_call(position) : Status{StatusCode::invalid};
}

Status Timeline::cover_in_call(std::uint64_t position) noexcept {
  if (is_covered(position)) return {};
  Ticket* ticket = nullptr;
  if (const Status status = take_ticket(&ticket); !status.ok()) return status;
  Status status;
  {
    const std::scoped_lock recording(recording_);
    if (!is_covered(position)) {  // another thread may have covered it
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
  // Work without a position needs one more, so that somebody can tell how far the stream is.
  if (operations() - recorded_operations_.load(std::memory_order_relaxed) < operations_per_ticket) return;
  if (Ticket* ticket = nullptr; record(&ticket).ok()) release(ticket);
}

/// Where nobody waits and no block is dropped, as with one buffer that is copied for ever, nobody else finds events
/// done. One query now and then keeps their number in proportion to what is in flight.
void Timeline::ask_if_many() noexcept {
  if (!has_many_.load(std::memory_order_relaxed)) return;
  Lock lock(mutex_);
  if (pending_.size() < ask_beyond_) return;
  (void)ask(pending_[pending_.size() / 2], lock, nullptr);
  ask_beyond_ = std::max(least_asked_, 2 * pending_.size());
}

}  // namespace thole::inline v0_1::detail
