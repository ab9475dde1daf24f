#include "streams/submission.hpp"

#include <time.h>

#include <utility>

#include "streams/device_block.hpp"

namespace thole::detail {
namespace {

// Pushed by any thread of the driver's, taken by reclaiming ones. Release and acquire make a pair.
constinit std::atomic<Block*> graph_released_{nullptr};

void release_from_graph(void* object) {
  auto* const block = static_cast<Block*>(object);
  if (!block->hold.drop_graph()) return;
  block->next = graph_released_.load(std::memory_order_relaxed);
  while (!graph_released_.compare_exchange_weak(block->next, block, std::memory_order_release,
                                                std::memory_order_relaxed)) {
  }
}

/// The steady clock's time as of the kernel's last tick: for ages in reports, some milliseconds do not matter, and
/// reading the clock itself takes 60 ns on a virtual machine, for each copy.
std::int64_t now_ns() noexcept {
  timespec now{};
  (void)clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

}  // namespace

void take_graph_released(MovingBlocks& out) noexcept {
  if (graph_released_.load(std::memory_order_acquire) == nullptr) return;
  out.begin();
  Block* block = graph_released_.exchange(nullptr, std::memory_order_acq_rel);
  if (block == nullptr) out.cancel();
  while (block != nullptr) {
    Block* const following = block->next;
    out.push(block);
    block = following;
  }
}

Result<Submission> Submission::begin(DeviceCore& core, Timeline& timeline, const char* call) noexcept {
  Submission work;
  work.call_ = call;
  work.core_ = &core;
  work.timeline_ = &timeline;
  if (work.core_->lost()) return tl::unexpected(work.core_->lost_error(call));
  CaptureInfo capture;
  if (work.timeline_->may_capture())
    if (const Status status = work.backend().capture_info(work.timeline_->native(), &capture); !status.ok())
      return tl::unexpected(work.error(status, "asking whether the stream captures"));
  if (capture.state == CaptureInfo::State::invalidated)
    return tl::unexpected(Error(Errc::capturing, std::string(call) + ": the stream's graph capture is invalidated"));
  work.graph_ = capture.graph;
  if (work.timeline_->foreign() && !work.capturing())
    if (const Status status = work.timeline_->reserve(&work.reserved_); !status.ok())
      return tl::unexpected(work.error(status, "creating an event"));
  return work;
}

Submission::Submission(Submission&& other) noexcept
    : call_(other.call_),
      core_(other.core_),
      timeline_(other.timeline_),
      graph_(other.graph_),
      reserved_(std::exchange(other.reserved_, nullptr)),
      noted_(other.noted_),
      count_(std::exchange(other.count_, 0)) {}

Submission::~Submission() {
  if (reserved_ != nullptr) timeline_->give_back(reserved_);
}

Error Submission::error(Status status, std::string_view what, std::string_view numbers) noexcept {
  return core_->error(status, call_, what, numbers);
}

/// A use may be another device's, whose loss is not this one's.
Error Submission::order_error(const Uses& uses, Status status, std::string_view what) noexcept {
  DeviceCore* const lost = lost_device(uses);
  return lost != nullptr ? lost->lost_error(call_) : error(status, what);
}

Result<void> Submission::order(Uses& uses, bool writes) noexcept {
  const Against against = writes ? Against::everything : Against::writes;
  if (!capturing()) {
    if (const Status status = order_after(uses, against, *timeline_); !status.ok())
      return tl::unexpected(order_error(uses, status, "waiting for another stream's use of the memory"));
    return {};
  }
  const Status status = query(uses, against);
  if (status.ok()) return {};
  if (status.code == StatusCode::not_ready || status.code == StatusCode::capture)
    return tl::unexpected(Error(Errc::in_flight, std::string(call_) +
                                                     ": the memory is in flight, and a graph that is being captured "
                                                     "cannot wait for work outside of it; wait() before the capture"));
  return tl::unexpected(order_error(uses, status, "asking for the memory's earlier uses"));
}

Result<void> Submission::use(Block& block, bool writes) noexcept {
  if (auto ordered = order(block.uses, writes); !ordered) return ordered;
  if (capturing()) {
    // CUDA: "Graph Management", cudaGraphRetainUserObject.
    block.hold.add_graph();
    if (const Status status = backend().retain_in_graph(graph_, &block, release_from_graph); !status.ok()) {
      release_from_graph(&block);
      return tl::unexpected(error(status, "keeping the memory in the graph"));
    }
    return {};
  }
  const bool was_open = any_open(block.uses, Against::everything);
  Use* const slot = slot_for(block.uses, *timeline_);
  if (slot == nullptr) return tl::unexpected(error({StatusCode::out_of_memory}, "noting a use"));
  noted_[count_++] = {slot, writes, was_open ? nullptr : &block};
  return {};
}

Result<void> Submission::use(DeviceBlock& block, bool writes) noexcept {
  if (auto ordered = order(block.uses, writes); !ordered) return ordered;
  if (capturing()) {
    block.references.fetch_add(1, std::memory_order_relaxed);
    if (const Status status = backend().retain_in_graph(graph_, &block, release_device_block_from_graph);
        !status.ok()) {
      release_device_block_from_graph(&block);
      return tl::unexpected(error(status, "keeping the device memory in the graph"));
    }
    return {};
  }
  Use* const slot = slot_for(block.uses, *timeline_);
  if (slot == nullptr) return tl::unexpected(error({StatusCode::out_of_memory}, "noting a use"));
  noted_[count_++] = {slot, writes, nullptr};
  return {};
}

void Submission::enqueued(std::size_t bytes, Precision precision) noexcept {
  if (capturing()) return;
  const auto position = timeline_->issue();
  for (std::size_t i = 0; i < count_; ++i) {
    (noted_[i].writes ? noted_[i].slot->write : noted_[i].slot->read).store(position, std::memory_order_relaxed);
    if (noted_[i].stamp != nullptr) noted_[i].stamp->used_since_ns.store(now_ns(), std::memory_order_relaxed);
  }
  count_ = 0;
  if (reserved_ == nullptr) {
    if (precision == Precision::at_once)
      (void)timeline_->record();
    else
      timeline_->record_if_due(bytes);
    return;
  }
  const Status status = timeline_->record_reserved(std::exchange(reserved_, nullptr));
  // The stream may be gone when somebody asks next, so that this is the last moment to know. If waiting fails as well
  // the position stays open: memory is lost, not corrupted.
  if (!status.ok() && !core_->lost()) {
    const CaptureGuard guard(backend());
    const auto last = timeline_->issued();
    if (backend().synchronize_stream(timeline_->native()).ok()) timeline_->finish(last);
  }
}

}  // namespace thole::detail
