#include <thole/heap.hpp>

#include <algorithm>
#include <bit>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "api/handle_access.hpp"
#include "backend/ask_until.hpp"
#include "base/host_function.hpp"
#include "base/trace_log.hpp"
#include "blocks/moving_blocks.hpp"
#include "heap/allocate.hpp"
#include "heap/collect.hpp"
#include "heap/heap_figures.hpp"
#include "heap/heap_handle.hpp"
#include "inspect/report.hpp"
#include "streams/cross_device.hpp"
#include "streams/part_blocks.hpp"
#include "streams/stream_registry.hpp"
#include "streams/uses.hpp"

namespace thole::inline v0_1 {
namespace detail {

namespace {

/// What the heap's blocks wait for: in each stream the latest position. Throws std::bad_alloc.
std::map<std::shared_ptr<Timeline>, std::uint64_t> open_positions(const HeapHandle& handle) {
  std::map<std::shared_ptr<Timeline>, std::uint64_t> latest;
  const auto add = [&](const Block& block) {
    for_each_open(block.uses, Against::everything, [&](const OpenUse& open) {
      auto& position = latest[open.timeline];
      position = std::max(position, open.position);
      return true;
    });
  };
  // Twice, since a part's uses become its whole's when it ends, which may have been looked at before.
  for (int look = 0; look != 2; ++look) for_each_used_block(handle.heap(), add);
  return latest;
}

/// The block is the program's.
void open(Block& block, SourceLocation where) noexcept {
  block.holders.open();
  block.made_at.store(where, std::memory_order_relaxed);
  if (tracing()) [[unlikely]]
    trace("make", block.asked_bytes, nullptr, where.file_name(), where.line());
}

}  // namespace
}  // namespace detail

using detail::Status;
using detail::StatusCode;

void PinnedHeap::check(const char* call) const {
  if (core_ == nullptr) throw detail::moved_from(call, "the heap");
}

PinnedHeap::PinnedHeap(const PinnedArena& arena, const HeapOptions& options) {
  if (!std::has_single_bit(options.alignment) || options.alignment > detail::page)
    throw Error(Errc::invalid_argument, "PinnedHeap: an alignment of " + std::to_string(options.alignment) +
                                            " bytes; it must be a power of two and at most a page, " +
                                            std::to_string(detail::page) + " bytes");
  const auto& core = arena.core("PinnedHeap");
  if (core->store().whole_only())
    throw Error(Errc::invalid_argument,
                "PinnedHeap: the arena was adopted to be read only, and has no memory to give; see PinnedArena::view");
  core_ = std::make_shared<detail::HeapHandle>(
      core, detail::HeapSettings{.alignment = std::max(options.alignment, detail::granule),
                                 .background_reclaim = options.background_reclaim,
                                 .max_bytes = options.max_bytes});
}

detail::Allocation PinnedHeap::allocate_cached(std::size_t count, std::size_t element_bytes, std::size_t alignment,
                                               SourceLocation where) const noexcept {
  std::size_t bytes = 0;
  if (__builtin_mul_overflow(count, element_bytes, &bytes) || bytes == 0 || core_ == nullptr) [[unlikely]]
    return {};
  detail::Block* const block = detail::allocate_cached(core_->heap(), bytes, alignment);
  if (block == nullptr) return {};
  detail::open(*block, where);
  return {block, block->data};
}

Result<detail::Allocation> PinnedHeap::allocate(std::size_t count, std::size_t element_bytes, std::size_t alignment,
                                                std::optional<std::chrono::nanoseconds> timeout,
                                                SourceLocation where) const noexcept {
  const char* const call = timeout ? "PinnedHeap::make_buffer_for" : "PinnedHeap::make_buffer";
  if (core_ == nullptr) return tl::unexpected(detail::moved_from(call, "the heap"));
  std::size_t bytes = 0;
  if (__builtin_mul_overflow(count, element_bytes, &bytes))
    return tl::unexpected(Error::make(Errc::too_large, [&] {
      return std::string(call) + ": " + std::to_string(count) + " elements of " + std::to_string(element_bytes) +
             " bytes are more bytes than a size can say";
    }));
  if (bytes == 0) return detail::Allocation{};
  const auto deadline = timeout ? detail::deadline_after(*timeout) : std::nullopt;
  auto block = detail::allocate_block(core_->heap(), bytes, alignment, deadline, call);
  if (!block) return tl::unexpected(std::move(block.error()));
  detail::open(**block, where);
  return detail::Allocation{*block, (*block)->data};
}

namespace {

/// What graphs kept that were dropped comes back when they are destroyed, soon, but where a stream's queue is full.
void wait_for_tidy(detail::DeviceCore& device, const detail::Deadline& deadline) noexcept {
  const auto asked = [&] {
    // Who waits for ever may do it himself; and again, since what comes meanwhile is left to him.
    if (!deadline && !detail::in_host_function() && !device.leftovers.empty() && device.begin_tidying()) {
      device.tidy();
      device.end_tidying();
    }
    const bool tidy = device.leftovers.empty() || device.lost();
    return detail::Status{tidy ? detail::StatusCode::ok : detail::StatusCode::not_ready};
  };
  (void)detail::ask_until(deadline.value_or(std::chrono::steady_clock::time_point::max()), asked);
}

/// Graphs of another device may have kept it, too.
void wait_until_tidy(detail::DeviceCore& device, const detail::Deadline& deadline) {
  wait_for_tidy(device, deadline);
  for (const auto& other : detail::devices_used_across(device)) wait_for_tidy(*other, deadline);
}

}  // namespace

std::size_t PinnedHeap::collect() const {
  check("PinnedHeap::collect");
  return core_->heap().of_this_process() ? detail::collect(*core_->arena()->device()) : 0;
}

void PinnedHeap::drain() const { detail::unwrap(drain_within(std::nullopt, "PinnedHeap::drain")); }

Result<void> PinnedHeap::drain_for(std::chrono::nanoseconds timeout) const noexcept {
  return drain_within(timeout, "PinnedHeap::drain_for");
}

Result<void> PinnedHeap::drain_within(std::optional<std::chrono::nanoseconds> timeout, const char* call) const noexcept
    try {
  if (core_ == nullptr) return tl::unexpected(detail::moved_from(call, "the heap"));
  if (!core_->heap().of_this_process()) return tl::unexpected(detail::of_another_process_error(call));
  const auto deadline = timeout ? detail::end_of_wait(*timeout) : std::nullopt;
  detail::DeviceCore& device = *core_->arena()->device();
  if (device.lost()) return tl::unexpected(device.lost_error(call));
  for (const auto& [timeline, at] : detail::open_positions(*core_)) {
    if (!deadline && detail::in_host_function() && !timeline->query(at).ok())
      return tl::unexpected(detail::host_function_error(call));
    const Status status = timeline->wait(at, deadline);
    if (status.ok()) continue;
    if (status.code == StatusCode::not_ready)
      return tl::unexpected(Error::make(Errc::timed_out, [&] {
        return std::string(call) + ": the device still uses buffers of the heap after " +
               std::to_string(timeout->count()) + " ns";
      }));
    if (status.code == StatusCode::capture)
      return tl::unexpected(Error::make(Errc::capturing, [&] {
        return std::string(call) +
               ": a stream that uses a buffer of the heap captures a graph now, or a capture took the event behind "
               "that "
               "use; drain when the capture has ended and the stream has been used once more";
      }));
    if (timeline->device()->lost()) return tl::unexpected(timeline->device()->lost_error(call));
    return tl::unexpected(device.error(status, call, "waiting for the device"));
  }
  wait_until_tidy(device, deadline);
  // Another thread may have taken finished blocks and not put them back yet; it may also have found one in use by a
  // second stream, and have retired it to that one, so that it takes a second look.
  for (int look = 0; look != 2; ++look) {
    detail::collect(device);
    detail::MovingBlocks::wait_for_arrival();
  }
  return {};
} catch (const std::bad_alloc&) {
  return tl::unexpected(Error::make(
      Errc::out_of_memory, [&] { return std::string(call) + ": the system has no memory for a list of blocks"; }));
}

HeapStats PinnedHeap::stats() const {
  check("PinnedHeap::stats");
  if (!core_->heap().of_this_process()) throw detail::of_another_process_error("PinnedHeap::stats");
  detail::HeapCore& heap = core_->heap();
  const auto figures = detail::figures_of(heap);
  return {.in_use = figures.in_use,
          .in_flight = figures.in_flight,
          .peak = heap.peak_bytes.get(),
          .buffers_made = figures.made,
          .freed_at_once = figures.freed_at_once,
          .deferred = figures.deferred,
          .recycled = figures.recycled,
          .waited = figures.waited,
          .most_in_flight = heap.peak_in_flight.get(),
          .max_bytes = heap.quota().limit(),
          .taken = heap.quota().limited() ? heap.quota().taken() : 0};
}

Report PinnedHeap::report() const {
  check("PinnedHeap::report");
  if (!core_->heap().of_this_process()) throw detail::of_another_process_error("PinnedHeap::report");
  return detail::make_report(core_->heap());
}

PinnedArena PinnedHeap::arena() const {
  check("PinnedHeap::arena");
  return PinnedArena(core_->arena());
}

}  // namespace thole::inline v0_1
