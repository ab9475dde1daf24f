#include "streams/submission.hpp"

#include <time.h>

#include <string>
#include <utility>

#include "base/trace_log.hpp"
#include "streams/graph_releases.hpp"

namespace thole::detail {
namespace {

/// The steady clock's time as of the kernel's last tick: for ages in reports, some milliseconds do not matter, and
/// reading the clock itself takes 60 ns on a virtual machine, for each copy.
std::int64_t now_ns() noexcept {
  timespec now{};
  (void)clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

}  // namespace

Result<Submission> Submission::begin(Timeline& timeline, const char* call) noexcept {
  Submission work(timeline, call);
  if (!work.going_on_)
    return tl::unexpected(Error::make(Errc::invalid_argument, [&] {
      return std::string(call) + ": stream " + std::to_string(timeline.id()) + " has been destroyed";
    }));
  if (work.core().lost()) return tl::unexpected(work.core().lost_error(call));
  if (const Status status = timeline.capture_info(&work.capture_); !status.ok())
    return tl::unexpected(work.error(status, "asking whether the stream captures"));
  if (work.capture_.state == CaptureInfo::State::invalidated)
    return tl::unexpected(Error::make(
        Errc::capturing, [&] { return std::string(call) + ": the stream's graph capture is invalidated"; }));
  if (timeline.foreign() && !work.capturing())
    if (const Status status = timeline.reserve(&work.reserved_); !status.ok())
      return tl::unexpected(work.error(status, "creating an event"));
  return work;
}

Submission::Submission(Submission&& other) noexcept
    : call_(other.call_),
      timeline_(other.timeline_),
      going_on_(std::move(other.going_on_)),
      capture_(other.capture_),
      reserved_(std::exchange(other.reserved_, nullptr)),
      used_(other.used_),
      count_(std::exchange(other.count_, 0)) {}

Submission::~Submission() {
  note_all(0);
  if (reserved_ != nullptr) timeline_->give_back(reserved_);
}

Error Submission::error(Status status, std::string_view what, std::string_view numbers) noexcept {
  return core().error(status, call_, what, numbers);
}

Result<void> Submission::order(const Uses& uses, bool writes) noexcept {
  const Against against = writes ? Against::everything : Against::writes;
  const Status status = capturing() ? query(uses, against) : order_after(uses, against, *timeline_);
  if (status.ok()) return {};
  if (capturing() && (status.code == StatusCode::not_ready || status.code == StatusCode::capture))
    return tl::unexpected(Error::make(Errc::in_flight, [&] {
      return std::string(call_) +
             ": the memory is in flight, and a graph that is being captured "
             "cannot wait for work outside of it; wait() before the capture";
    }));
  // A use may be another device's, whose loss is not this one's.
  if (const auto lost = lost_device(uses); lost != nullptr) return tl::unexpected(lost->lost_error(call_));
  return tl::unexpected(error(
      status, capturing() ? "asking for the memory's earlier uses" : "waiting for another stream's use of the memory"));
}

Status Submission::keep_in(GraphHandle graph, const Used& used) noexcept {
  if (used.block != nullptr) return keep_in_graph(*used.block, timeline_->device(), graph);
  used.device_block->hold();
  const Status status = backend().retain_in_graph(graph, used.device_block, release_device_block_from_graph);
  if (!status.ok()) release_device_block_from_graph(used.device_block);
  return status;
}

Result<void> Submission::use(Used used) noexcept {
  if (auto ordered = order(used.uses(), used.writes); !ordered) return ordered;
  if (capturing())
    if (const Status status = keep_in(graph(), used); !status.ok())
      return tl::unexpected(error(status, "keeping the memory in the graph"));
  bool was_open = false;
  if (!reserve(used.uses(), *timeline_, &was_open))
    return tl::unexpected(error({StatusCode::out_of_memory}, "noting a use"));
  if (used.block != nullptr) used.block->used.store(true, std::memory_order_release);
  used.stamp = used.block != nullptr && !was_open;
  used_[count_++] = used;
  return {};
}

Result<void> Submission::use(Block& block, bool writes) noexcept { return use(Used{&block, nullptr, writes, false}); }
Result<void> Submission::use(DeviceBlock& block, bool writes) noexcept {
  return use(Used{nullptr, &block, writes, false});
}

void Submission::expect_long_work() noexcept {
  // A foreign stream's uses have their events already. A failure here costs precision, not safety.
  if (!capturing()) (void)timeline_->cover_all();
}

void Submission::note_all(std::uint64_t position) noexcept {
  for (std::size_t i = 0; i != count_; ++i) {
    const Used& used = used_[i];
    if (used.stamp && position != 0) used.block->used_since_ns.store(now_ns(), std::memory_order_relaxed);
    note(used.uses(), *timeline_, position, used.writes);
  }
  count_ = 0;
}

/// A capture has begun since the work was checked, and may have taken it.
void Submission::keep_in_graph_after(const CaptureInfo& after) noexcept {
  if (after.state != CaptureInfo::State::active || after.id == capture_.id) return;
  for (std::size_t i = 0; i < count_; ++i)
    if (!keep_in(after.graph, used_[i]).ok()) {
      // The work is enqueued, and cannot be taken back: the memory is lost, rather than used twice.
      if (used_[i].block != nullptr)
        used_[i].block->holders.add_graph();
      else
        used_[i].device_block->hold();
    }
}

/// No event can be had for the work. A foreign stream may be gone when somebody asks next, so that this is the last
/// moment to know. If waiting fails as well the use stays open: memory is lost, not corrupted.
void Submission::wait_for_work() noexcept {
  if (!core().lost()) (void)timeline_->synchronize();
}

void Submission::enqueued(std::size_t bytes, Precision precision) noexcept {
  trace(call_, bytes, timeline_->native());
  CaptureInfo after;
  if (capturing()) {
    const Status status = timeline_->capture_info(&after);
    if (!status.ok() || (after.state != CaptureInfo::State::none && after.id == capture_.id)) return note_all(0);
  }
  // The position comes first, so that the event covers it.
  const auto position = timeline_->issue();
  if (reserved_ != nullptr) {
    const Status status = timeline_->record_reserved(std::exchange(reserved_, nullptr), &after);
    keep_in_graph_after(after);
    note_all(position);
    if (!status.ok() && after.state == CaptureInfo::State::none) wait_for_work();
    return;
  }
  if (!capturing()) (void)timeline_->capture_info(&after);
  keep_in_graph_after(after);
  note_all(position);
  if (precision == Precision::at_once || timeline_->foreign())
    (void)timeline_->cover(position);
  else
    timeline_->record_if_due(bytes);
}

}  // namespace thole::detail
