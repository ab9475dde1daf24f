#include "streams/submission.hpp"

#include <time.h>

#include <new>
#include <string>
#include <utility>

#include "base/prefetch.hpp"
#include "base/trace_log.hpp"
#include "streams/stream_registry.hpp"

namespace thole::inline v0_1::detail {
namespace {

/// The steady clock's time as of the kernel's last tick: for ages in reports, some milliseconds do not matter, and
/// reading the clock itself takes 60 ns on a virtual machine, for each copy.
std::int64_t now_ns() noexcept {
  timespec now{};
  (void)clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

}  // namespace

Result<Submission> Submission::begin(Timeline& timeline, const char* call, Of of) noexcept {
  Submission work(timeline, call, of);
  if (!work.going_on_)
    return tl::unexpected(Error::make(Errc::invalid_argument, [&] {
      return std::string(call) + ": stream " + std::to_string(timeline.id()) + " has been destroyed";
    }));
  if (work.core().lost()) return tl::unexpected(work.core().lost_error(call));
  Status status = timeline.capture_info(&work.capture_);
  if (status.code == StatusCode::capture && of == Of::all_so_far) {
    work.capture_.state = CaptureInfo::State::invalidated;  // another stream's capture allows this one no event now
    status = {};
  }
  if (!status.ok()) return tl::unexpected(work.error(status, "asking whether the stream captures"));
  if (work.capture_.state == CaptureInfo::State::invalidated && of == Of::work)
    return tl::unexpected(Error::make(
        Errc::capturing, [&] { return std::string(call) + ": the stream's graph capture is invalidated"; }));
  if (timeline.foreign() && !work.has_no_event())
    if (status = timeline.reserve(&work.reserved_); !status.ok())
      return tl::unexpected(work.error(status, "creating an event"));
  return work;
}

Submission::Submission(Submission&& other) noexcept
    : call_(other.call_),
      timeline_(other.timeline_),
      of_(other.of_),
      going_on_(std::move(other.going_on_)),
      capture_(other.capture_),
      reserved_(std::exchange(other.reserved_, nullptr)),
      used_(other.used_),
      many_(other.many_),
      writes_(other.writes_),
      before_(other.before_),
      count_(std::exchange(other.count_, 0)),
      operations_(other.operations_) {}

Submission::~Submission() {
  if (core().of_another_process()) return;  // a child that leaves a function which has forked
  note_all(0);
  if (reserved_ != nullptr) timeline_->give_back(reserved_);
}

Error Submission::error(Status status, std::string_view what, std::string_view numbers) noexcept {
  return core().error(status, call_, what, numbers);
}

/// What the status of an order that failed means.
Result<void> Submission::not_ordered(Status status, const Uses& uses) noexcept {
  if (capturing() && (status.code == StatusCode::not_ready || status.code == StatusCode::capture))
    return tl::unexpected(Error::make(Errc::in_flight, [&] {
      return std::string(call_) +
             ": the memory is in flight, and a graph that is being captured "
             "cannot wait for work outside of it; wait() before the capture";
    }));
  // One that has begun since this stream was asked is met when it is made to wait.
  if (CaptureInfo now;
      status.code == StatusCode::capture && timeline_->capture_info(&now).ok() && now.state != CaptureInfo::State::none)
    return tl::unexpected(Error::make(Errc::capturing, [&] {
      return std::string(call_) + ": a graph capture has begun in stream " + std::to_string(timeline_->id()) +
             " meanwhile, which cannot wait for the earlier uses of the memory";
    }));
  if (status.code == StatusCode::capture && status.native == 0)
    return tl::unexpected(Error::make(Errc::capturing, [&] {
      return std::string(call_) +
             ": the memory was used in a stream that captures a graph now, and no event says when "
             "that use is done; it can be waited for when the capture has ended";
    }));
  // A use may be another device's, whose loss is not this one's.
  if (const auto lost = lost_device(uses); lost != nullptr) return tl::unexpected(lost->lost_error(call_));
  return tl::unexpected(error(
      status, capturing() ? "asking for the memory's earlier uses" : "waiting for another stream's use of the memory"));
}

/// In a capture: a launch that is seen is ordered itself.
bool Submission::must_be_done() const noexcept { return !core().streams->graphs.launches_seen(capture_); }

Result<void> Submission::order(const Uses& uses, bool writes) noexcept {
  const Against against = writes ? Against::everything : Against::writes;
  Status status;
  if (!capturing())
    status = order_after(uses, against, *timeline_);
  else if (must_be_done())
    status = query(uses, against);
  return status.ok() ? Result<void>() : not_ordered(status, uses);
}

/// In a capture.
Result<void> Submission::check_done(const Used* all, std::size_t count) noexcept {
  if (!must_be_done()) return {};
  for (std::size_t i = 0; i != count; ++i)
    if (auto ordered = order(all[i].uses(), all[i].writes); !ordered) return ordered;
  return {};
}

/// Taking a slot tells whether anything is open in another stream: of many pieces of memory few have to be looked at
/// once more. Slots that were taken for nothing are given back with this object.
Result<void> Submission::reserve_and_order(Used* all, std::size_t count) noexcept {
  OrderAfterAll waits(*timeline_);
  for (std::size_t i = 0; i != count; ++i) {
    if (i + prefetched_ahead < count) all[i + prefetched_ahead].uses().prefetch();
    WasOpen was_open;
    if (auto reserved = keep_and_reserve(all[i], &was_open); !reserved) return reserved;
    if (!was_open.elsewhere) continue;
    const Status status = waits.add(all[i].uses(), all[i].writes ? Against::everything : Against::writes);
    if (!status.ok()) return not_ordered(status, all[i].uses());
  }
  const Status status = waits.finish();
  if (status.ok()) return {};
  for (std::size_t i = 0; i != count; ++i)
    if (lost_device(all[i].uses()) != nullptr) return not_ordered(status, all[i].uses());
  return not_ordered(status, all[0].uses());
}

/// `orders`: the work is still to be enqueued.
Status Submission::keep_in(const CaptureInfo& capture, const Used& used, bool orders) noexcept try {
  std::shared_ptr<GraphUses> uses;
  if (const Status status =
          core().streams->graphs.of_capture(timeline_->device(), capture, GraphLaunches::unseen, &uses);
      !status.ok())
    return status;
  // What is refused below, has not been written.
  if (!uses->hold({used.block, used.device_block, used.writes && !orders, false})) return {StatusCode::out_of_memory};
  const auto by = timeline_->shared_from_this();
  GraphUses::Branches before;
  if (orders) {
    uses->must_come_after(used, by, before);
    if (const Status status = order_in_capture(before); !status.ok()) return status;
  }
  return {uses->add(used, by, before) ? StatusCode::ok : StatusCode::out_of_memory};
} catch (const std::bad_alloc&) {
  return {StatusCode::out_of_memory};
}

/// Other streams of the capture have used the memory: an edge of the graph for each.
Status Submission::order_in_capture(const GraphUses::Branches& before) noexcept {
  for (const auto& other : before) {
    // The handle means the caller's own stream, and there is no other way to the place where the other one is.
    if (other->of_another_thread()) return {StatusCode::capture};
    CaptureInfo theirs;
    if (!other->capture_info(&theirs).ok() || theirs.id != capture_.id) continue;  // no more of this capture: it fails
    Ticket* ticket = nullptr;
    if (const Status status = other->record_captured(capture_.id, &ticket); !status.ok()) return status;
    const Status status = other->order_before(*timeline_, ticket);
    other->release(ticket);
    if (!status.ok()) return status;
  }
  return {};
}

/// Nothing can fail any more once this has succeeded and the work comes after what it must come after.
Result<void> Submission::keep_and_reserve(Used& used, WasOpen* was_open, bool orders) noexcept {
  if (capturing())
    if (const Status status = keep_in(capture_, used, orders); !status.ok())
      return tl::unexpected(error(status, "keeping the memory in the graph"));
  if (!reserve(used.uses(), *timeline_, was_open))
    return tl::unexpected(error({StatusCode::out_of_memory}, "noting a use"));
  if (used.block != nullptr) used.block->used.store(true, std::memory_order_release);
  used.stamp = used.block != nullptr && !was_open->any;
  ++count_;
  return {};
}

/// As reserve_and_order(): mostly nothing is open in another stream, and then nothing more is looked at.
Result<void> Submission::use(Used used) noexcept {
  if (capturing())
    if (auto ordered = order(used.uses(), used.writes); !ordered) return ordered;
  used_[count_] = used;
  WasOpen was_open;
  if (auto kept = keep_and_reserve(used_[count_], &was_open); !kept) return kept;
  return capturing() || !was_open.elsewhere ? Result<void>() : order(used.uses(), used.writes);
}

Result<void> Submission::use_all(Used* all, std::size_t count, const std::shared_ptr<GraphWrite>* writes) noexcept {
  many_ = all;
  writes_ = writes;
  if (writes != nullptr) before_ = timeline_->issued();
  if (!capturing()) return reserve_and_order(all, count);
  if (auto done = check_done(all, count); !done) return done;
  WasOpen was_open;
  for (std::size_t i = 0; i != count; ++i)
    if (auto kept = keep_and_reserve(all[i], &was_open); !kept) return kept;
  return {};
}

Result<void> Submission::use(Block& block, bool writes) noexcept { return use(Used{&block, nullptr, writes, false}); }
Result<void> Submission::use(DeviceBlock& block, bool writes) noexcept {
  return use(Used{nullptr, &block, writes, false});
}

Result<void> Submission::note(Block& block, bool writes) noexcept {
  used_[count_] = Used{&block, nullptr, writes, false};
  WasOpen was_open;
  return keep_and_reserve(used_[count_], &was_open, false);
}

void Submission::expect_long_work() noexcept {
  // A foreign stream's uses have their events already. A failure here costs precision, not safety.
  if (!capturing()) (void)timeline_->cover_all();
}

void Submission::note_all(std::uint64_t position) noexcept {
  std::int64_t now = 0;
  for (std::size_t i = 0; i != count_; ++i) {
    if (i + prefetched_ahead < count_) this->used()[i + prefetched_ahead].uses().prefetch();
    const Used& used = this->used()[i];
    const bool stamp = used.stamp && position != 0;
    if (stamp && now == 0) now = now_ns();
    const std::int64_t since = stamp ? now : 0;
    if (writes_ != nullptr && writes_[i] != nullptr && writes_[i]->complete() && position != 0)
      note_launch(used.uses(), *timeline_, position, before_, writes_[i], since);
    else
      detail::note(used.uses(), *timeline_, position, used.writes, since);
  }
  count_ = 0;
}

/// The work is in the graph, and perhaps each launch is to say when it is done.
void Submission::tell_graph_of_writes() noexcept {
  std::shared_ptr<GraphUses> uses;
  for (std::size_t i = 0; i != count_; ++i) {
    const Used& used = this->used()[i];
    if (used.block == nullptr || !used.writes) continue;
    if (uses == nullptr &&
        !core().streams->graphs.of_capture(timeline_->device(), capture_, GraphLaunches::unseen, &uses).ok())
      return;
    if (uses->launches != GraphLaunches::seen_by_write) return;
    uses->written(*used.block, *timeline_);
  }
}

Submission::Since Submission::since(Status asked, const CaptureInfo& after) const noexcept {
  // `capture`: of the legacy stream, which never captures itself, while one that waits for it does.
  if (!asked.ok()) return asked.code == StatusCode::capture ? Since::same : Since::unknown;
  if (after.state == CaptureInfo::State::none) return capturing() ? Since::ended : Since::same;
  if (after.id == capture_.id) return Since::same;
  return after.state == CaptureInfo::State::active ? Since::begun : Since::ended;  // one that is void has no graph
}

Submission::Since Submission::look_again(CaptureInfo* after) noexcept {
  Status status = timeline_->capture_info(after);
  if (!status.ok() && status.code != StatusCode::capture) status = timeline_->capture_info(after);  // refused once
  return since(status, *after);
}

/// A capture may have begun since the work was checked, and have taken it.
void Submission::keep_in_graph_after(Since since, const CaptureInfo& after) noexcept {
  if (since != Since::begun && (since != Since::unknown || core().lost())) return;
  for (std::size_t i = 0; i < count_; ++i) {
    const Used& used = this->used()[i];
    if (since == Since::begun && keep_in(after, used, false).ok()) continue;
    // The work is enqueued, and cannot be taken back: the memory is lost, rather than used twice.
    if (used.block != nullptr)
      used.block->holders.add_graph();
    else
      used.device_block->hold();
  }
}

/// No event can be had for the work. A foreign stream may be gone when somebody asks next, so that this is the last
/// moment to know. If waiting fails as well the use stays open: memory is lost, not corrupted.
void Submission::wait_for_work() noexcept {
  if (!core().lost()) (void)timeline_->synchronize();
}

void Submission::enqueued(std::size_t bytes, Precision precision) noexcept {
  if (core().of_another_process()) return;  // as in the destructor
  trace(call_, bytes, timeline_->native());
  CaptureInfo after;
  if (has_no_event() && of_ == Of::all_so_far) {
    const auto position = timeline_->issue();
    note_all(position);
    if (!timeline_->is_usable()) (void)timeline_->cover_in_call(position);
    return;
  }
  Since since = Since::same;
  if (capturing()) {
    since = look_again(&after);
    if (since == Since::same) {
      tell_graph_of_writes();
      return note_all(0);
    }
  }
  // The position comes first, so that the event covers it.
  const auto position = timeline_->issue(operations_);
  // What is asked of captures when an event is recorded is what must be known here: it is asked once.
  if (precision == Precision::at_once && !has_no_event() && reserved_ == nullptr) (void)timeline_->reserve(&reserved_);
  Status recorded{StatusCode::not_ready};
  if (reserved_ != nullptr) recorded = timeline_->record_reserved(std::exchange(reserved_, nullptr), &after);
  // An event that was refused has told nothing of captures.
  if (!capturing())
    since = recorded.ok() || after.state != CaptureInfo::State::none ? this->since({}, after) : look_again(&after);
  // In a capture the first graph keeps the memory already.
  if (!capturing() || since == Since::begun) keep_in_graph_after(since, after);
  note_all(position);
  if (recorded.ok()) return;
  if (timeline_->foreign() && !has_no_event()) {
    if (after.state == CaptureInfo::State::none) wait_for_work();
    return;
  }
  // Where the stream is ending, its last event may have been recorded already, and nobody can record another one but
  // this call. If it ends only from now on, it sees the position: both have taken one, and so are in one order.
  if (of_ == Of::all_so_far && !timeline_->foreign() && timeline_->is_crowded()) return;  // nothing here waits for room
  if (!timeline_->is_usable()) {
    if (!timeline_->cover_in_call(position).ok()) (void)timeline_->cover_in_call(position);  // a driver may refuse once
  } else if (precision == Precision::at_once || timeline_->foreign()) {
    (void)timeline_->cover_in_call(position);
  } else {
    timeline_->record_if_due(bytes);
  }
}

}  // namespace thole::inline v0_1::detail
