#include <thole/heap.hpp>

#include <algorithm>
#include <bit>
#include <chrono>
#include <string>
#include <thread>
#include <utility>

#include "api/handle_access.hpp"
#include "blocks/moving_blocks.hpp"
#include "heap/allocate.hpp"
#include "heap/arena_core.hpp"
#include "heap/collect.hpp"
#include "heap/heap_core.hpp"
#include "inspect/make_report.hpp"
#include "streams/stream_registry.hpp"
#include "streams/uses.hpp"

namespace thole {
namespace detail {

class HeapHandle {
 public:
  HeapHandle(std::shared_ptr<ArenaCore> arena, std::size_t alignment)
      : arena_(std::move(arena)), heap_(HeapCore::open(arena_, alignment)) {}
  ~HeapHandle() { heap_->close(); }
  HeapHandle(const HeapHandle&) = delete;
  HeapHandle& operator=(const HeapHandle&) = delete;

  const std::shared_ptr<ArenaCore>& arena() const noexcept { return arena_; }
  HeapCore& heap() const noexcept { return *heap_; }

 private:
  const std::shared_ptr<ArenaCore> arena_;
  HeapCore* const heap_;
};

namespace {

/// What one of the heap's blocks waits for.
struct Position {
  Timeline* timeline;
  std::uint64_t at;
};

std::vector<Position> open_positions(const HeapHandle& handle) {
  std::vector<Position> positions;
  for (const StoreSpan& span : handle.arena()->store().spans())
    if (span.block != nullptr && span.block->heap.load(std::memory_order_relaxed) == &handle.heap())
      for_each_open(span.block->uses, Against::everything, [&](Timeline& timeline, std::uint64_t at) {
        positions.push_back({&timeline, at});
        return true;
      });
  return positions;
}

/// The block is the program's.
void open(Block& block, const std::source_location& where) noexcept {
  block.hold.open();
  block.made_at.store(where, std::memory_order_relaxed);
}

Deadline deadline_after(const std::optional<std::chrono::nanoseconds>& timeout) {
  using Clock = std::chrono::steady_clock;
  if (!timeout) return {};
  const auto now = Clock::now();
  return *timeout > Clock::time_point::max() - now ? Clock::time_point::max() : now + *timeout;
}

}  // namespace
}  // namespace detail

using detail::Status;
using detail::StatusCode;

void PinnedHeap::check(const char* call) const {
  if (core_ == nullptr) throw detail::moved_from(call, "the heap");
}

PinnedHeap::PinnedHeap(const PinnedArena& arena, const HeapOptions& options) {
  if (!std::has_single_bit(options.alignment) || options.alignment > detail::size_class::page)
    throw Error(Errc::invalid_argument, "PinnedHeap: an alignment of " + std::to_string(options.alignment) +
                                            " bytes; it must be a power of two and at most a page, " +
                                            std::to_string(detail::size_class::page) + " bytes");
  core_ = std::make_shared<detail::HeapHandle>(arena.core("PinnedHeap"),
                                               std::max(options.alignment, detail::size_class::granule));
  if (options.background_reclaim) detail::watch_for(core_->arena()->device(), core_);
}

detail::Allocation PinnedHeap::allocate_cached(std::size_t count, std::size_t element_bytes, std::size_t alignment,
                                               const std::source_location& where) const noexcept {
  std::size_t bytes = 0;
  if (__builtin_mul_overflow(count, element_bytes, &bytes) || bytes == 0 || core_ == nullptr) [[unlikely]]
    return {};
  detail::Block* const block = detail::allocate_at_once(core_->heap(), bytes, alignment);
  if (block == nullptr) return {};
  detail::open(*block, where);
  return {block, block->data};
}

Result<detail::Allocation> PinnedHeap::allocate(std::size_t count, std::size_t element_bytes, std::size_t alignment,
                                                std::optional<std::chrono::nanoseconds> timeout,
                                                const std::source_location& where) const noexcept {
  const char* const call = timeout ? "PinnedHeap::try_make_buffer_for" : "PinnedHeap::make_buffer";
  if (core_ == nullptr) return tl::unexpected(detail::moved_from(call, "the heap"));
  std::size_t bytes = 0;
  if (__builtin_mul_overflow(count, element_bytes, &bytes))
    return tl::unexpected(Error::make(Errc::too_large, [&] {
      return std::string(call) + ": " + std::to_string(count) + " elements of " + std::to_string(element_bytes) +
             " bytes are more bytes than a size can say";
    }));
  if (bytes == 0) return detail::Allocation{};
  auto block = detail::allocate_block(core_->heap(), bytes, alignment, detail::deadline_after(timeout), call);
  if (!block) return tl::unexpected(std::move(block.error()));
  detail::open(**block, where);
  return detail::Allocation{*block, (*block)->data};
}

std::size_t PinnedHeap::collect() const {
  check("PinnedHeap::collect");
  return detail::collect(*core_->arena()->device());
}

namespace {

/// Not for ever: busy threads take new ones. The thread that has some may be waiting for a processor.
void wait_for_blocks_in_transit() noexcept {
  constexpr int yields = 1000, pauses = 1000;
  for (int i = 0; i != yields + pauses && detail::MovingBlocks::any(); ++i)
    if (i < yields)
      std::this_thread::yield();
    else
      std::this_thread::sleep_for(std::chrono::microseconds(100));
}

/// Status of the position when it is done, or at the deadline.
Status wait_until(detail::Timeline& timeline, std::uint64_t at, std::chrono::steady_clock::time_point deadline) {
  for (;;) {
    const Status status = timeline.query(at);
    if (status.code != StatusCode::not_ready || std::chrono::steady_clock::now() >= deadline) return status;
    std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
}

}  // namespace

void PinnedHeap::drain() const { detail::unwrap(drain_within(std::nullopt, "PinnedHeap::drain")); }

Result<void> PinnedHeap::drain_for(std::chrono::nanoseconds timeout) const noexcept {
  return drain_within(timeout, "PinnedHeap::drain_for");
}

Result<void> PinnedHeap::drain_within(std::optional<std::chrono::nanoseconds> timeout, const char* call) const noexcept
    try {
  if (core_ == nullptr) return tl::unexpected(detail::moved_from(call, "the heap"));
  const auto deadline = detail::deadline_after(timeout);
  detail::DeviceCore& device = *core_->arena()->device();
  if (device.lost()) return tl::unexpected(device.lost_error(call));
  for (const auto& [timeline, at] : detail::open_positions(*core_)) {
    const Status status = deadline ? wait_until(*timeline, at, *deadline) : timeline->wait(at);
    if (status.ok()) continue;
    if (status.code == StatusCode::not_ready)
      return tl::unexpected(Error(Errc::timed_out, std::string(call) +
                                                       ": the device still uses buffers of the heap after " +
                                                       std::to_string(timeout->count()) + " ns"));
    if (status.code == StatusCode::capture)
      return tl::unexpected(Error(Errc::capturing, std::string(call) + ": a stream that uses a buffer of the heap "
                                                                       "captures a graph now"));
    if (timeline->device()->lost()) return tl::unexpected(timeline->device()->lost_error(call));
    return tl::unexpected(device.error(status, call, "waiting for the device"));
  }
  // Another thread may have taken finished blocks and not put them back yet; it may also have found one in use by a
  // second stream, and have put it into that one's queue, so that it takes a second look.
  for (int look = 0; look != 2; ++look) {
    detail::collect(device);
    wait_for_blocks_in_transit();
  }
  return {};
} catch (const std::bad_alloc&) {
  return tl::unexpected(Error::make(
      Errc::out_of_memory, [&] { return std::string(call) + ": the system has no memory for a list of blocks"; }));
}

HeapStats PinnedHeap::stats() const {
  check("PinnedHeap::stats");
  detail::HeapCore& heap = core_->heap();
  heap.note_peak();
  const auto figures = heap.figures();
  HeapStats stats;
  stats.in_use = figures.in_use;
  stats.in_flight = figures.in_flight;
  stats.peak = heap.peak.load(std::memory_order_relaxed);
  stats.buffers_made = figures.made;
  stats.freed_at_once = figures.at_once;
  stats.deferred = figures.deferred;
  stats.recycled = figures.recycled;
  stats.waited = figures.waited;
  stats.most_in_flight = heap.most_in_flight.load(std::memory_order_relaxed);
  return stats;
}

Report PinnedHeap::report() const {
  check("PinnedHeap::report");
  return detail::make_report(core_->arena()->store(), core_->heap());
}

PinnedArena PinnedHeap::arena() const {
  check("PinnedHeap::arena");
  return PinnedArena(core_->arena());
}

}  // namespace thole
