#include "heap/allocate.hpp"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <new>
#include <optional>
#include <string>
#include <thread>

#include "base/host_function.hpp"
#include "base/trace_log.hpp"
#include "blocks/block_pool.hpp"
#include "blocks/moving_blocks.hpp"
#include "heap/collect.hpp"
#include "heap/heap_figures.hpp"
#include "heap/size_class.hpp"
#include "streams/stream_registry.hpp"

namespace thole::inline v0_1::detail {
namespace {

// Below, sizes can be rounded without overflow.
constexpr std::size_t beyond_any_machine = std::size_t{1} << 46;

Error too_large_error(std::size_t bytes, std::size_t possible, const char* call) {
  return Error::make(Errc::too_large, [&] {
    return std::string(call) + ": " + std::to_string(bytes) +
           " bytes are more than the arena can ever hold in one piece, " + std::to_string(possible) + " bytes";
  });
}

Error quota_error(HeapCore& heap, std::size_t bytes, bool timed_out, const char* call) {
  const auto figures = figures_of(heap);
  const Quota& quota = heap.quota();
  return Error::make(timed_out ? Errc::timed_out : Errc::limit, [&] {
    return std::string(call) + (timed_out ? ": in the given time, no" : ": no") + " pinned memory for " +
           std::to_string(bytes) + " bytes: the heap may have " + std::to_string(quota.limit()) +
           " bytes (HeapOptions::max_bytes) and has " + std::to_string(quota.taken()) + ", of which " +
           std::to_string(figures.in_use) + " are in use and " + std::to_string(figures.in_flight) + " in flight";
  });
}

Error exhausted_error(HeapCore& heap, std::size_t bytes, std::size_t alignment, const std::optional<Error>& no_growth,
                      bool timed_out, const char* call) {
  const ArenaCore& arena = heap.arena();
  const auto store = arena.store().stats();
  // Taken one after the other while threads go on: each is true, their sum may be off.
  const std::size_t kept = std::min(arena.kept_bytes(), store.handed_out);
  const std::size_t in_flight = std::min(arena.in_flight.get(), store.handed_out - kept);
  return Error::make(timed_out ? Errc::timed_out : Errc::out_of_memory, [&] {
    std::string text =
        std::string(call) + (timed_out ? ": in the given time, no" : ": no") + " pinned memory for " +
        std::to_string(bytes) + " bytes" +
        (alignment > granule ? " at a multiple of " + std::to_string(alignment) : "") + ": " +
        std::to_string(store.free + kept) + " free, " + std::to_string(size_class::round_down(store.largest_free)) +
        " in the largest free piece, " + std::to_string(in_flight) + " in flight, " +
        std::to_string(store.handed_out - kept - in_flight) + " in use, of " + std::to_string(store.capacity) +
        " (the arena may grow to " + std::to_string(store.max_capacity) + ")";
    if (no_growth) {
      // Without the words for its code, which this error says itself.
      const std::string why = no_growth->what(), words = ": " + no_growth->code().message();
      text += "; it could not grow: " + (why.ends_with(words) ? why.substr(0, why.size() - words.size()) : why);
    }
    if (const std::string why = records_refused(); !why.empty())
      text += "; for a buffer's record, which is ordinary memory, there is no room: " + why;
    return text;
  });
}

Request request_of(const HeapCore& heap, std::size_t bytes, std::size_t alignment) noexcept {
  return {bytes, size_class::round_up(bytes), std::max(alignment, heap.alignment())};
}

/// What is kept or finished anywhere, without waiting for the device. `over_quota`: there was none since the heap has
/// all that it may have.
Block* take_from_anywhere(HeapCore& heap, const Request& request, bool& over_quota) noexcept {
  // Other threads move free blocks about meanwhile. Not for ever: beside busy threads some always are on their way. So
  // many in vain, while there is something to find, nobody will see: beside a thread that trims without end, 64 were in
  // vain once in three million allocations.
  constexpr int most_searches = 256;
  DeviceCore& device = *heap.arena().device();
  const Quota& quota = heap.quota();
  // Others take more than they need for a moment: see quota.hpp.
  const auto is_full = [&] {
    const auto turns = quota.turns();
    return !MovingBlocks::any() && !quota.has_room(request.bytes) && quota.turns() == turns;
  };
  for (int i = 0; i != most_searches; ++i) {
    const MemorySearch search;
    request.refused = false;
    const std::uint64_t moves = heap.arena().depot.moves();
    collect(device);
    if (Block* const block = heap.take_cached(request)) return block;
    if (!quota.has_room(request.bytes)) heap.flush_caches();
    over_quota = !quota.has_room(request.bytes);
    if (over_quota) {
      if (!search.missed_some() && is_full()) return nullptr;
      if (MovingBlocks::any()) std::this_thread::yield();
      continue;
    }
    if (Block* const block = heap.take_from_store(request)) return block;
    if (Block* const block = heap.take_from_others(request)) return block;
    heap.arena().flush();
    if (Block* const block = heap.take_from_store(request, true)) return block;
    if (!search.missed_some() && heap.arena().depot.moves() == moves && (!request.refused || is_full())) return nullptr;
    if (MovingBlocks::any()) std::this_thread::yield();
  }
  return nullptr;
}

Result<void> grow(Store& store, std::size_t bytes, std::size_t seen, Store::Waits waits) noexcept try {
  return store.grow(bytes, seen, waits);
} catch (const std::bad_alloc&) {
  return tl::unexpected(Error::make(
      Errc::out_of_memory, [] { return std::string("PinnedArena: the system has no memory for a region's records"); }));
}

/// By growing; nullptr with the reason when the arena cannot, or may not. Who has a deadline waits for no other thread
/// that grows.
Block* take_by_growing(HeapCore& heap, const Request& request, Store::Waits waits,
                       std::optional<Error>& no_growth) noexcept {
  Store& store = heap.arena().store();
  for (;;) {
    const auto seen = store.growths();
    if (Block* const block = heap.take_from_store(request)) return block;
    if (!heap.quota().has_room(request.bytes)) return nullptr;
    if (auto grown = grow(store, request.bytes, seen, waits); !grown) {
      no_growth = std::move(grown.error());
      return nullptr;
    }
  }
}

/// Copies in flight give memory back in any stream, so that no single event can be waited for: look again, ever less
/// often. What was dropped may have left regions empty that can make way for a larger one; but what pinning takes,
/// where it is in vain, must be little of the time.
Block* wait_for_memory(HeapCore& heap, const Request& request, const Deadline& deadline, bool& over_quota,
                       std::optional<Error>& no_growth) noexcept {
  using Clock = std::chrono::steady_clock;
  constexpr auto longest_pause = std::chrono::microseconds(1000);
  constexpr auto longest_without_growth = 64 * longest_pause;
  auto pause = std::chrono::microseconds(10);
  Clock::duration without_growth = longest_pause;
  auto grow_from = Clock::now() + without_growth;
  const TraceScope scope("wait for memory", request.bytes);
  heap.count_waited();
  while (!heap.device_lost()) {
    if (Block* const block = take_from_anywhere(heap, request, over_quota)) return block;
    const auto now = Clock::now();
    if (now >= *deadline) return nullptr;
    if (now >= grow_from) {
      no_growth.reset();
      if (Block* const block = take_by_growing(heap, request, Store::Waits::never, no_growth)) return block;
      const auto end = Clock::now();
      without_growth =
          std::max(std::min<Clock::duration>(2 * without_growth, longest_without_growth), 16 * (end - now));
      grow_from = end + without_growth;
    }
    std::this_thread::sleep_for(std::min<std::chrono::nanoseconds>(pause, *deadline - now));
    pause = std::min(pause * 2, longest_pause);
  }
  return nullptr;
}

}  // namespace

Block* allocate_cached(HeapCore& heap, std::size_t bytes, std::size_t alignment) noexcept {
  if (bytes > beyond_any_machine || heap.device_lost()) [[unlikely]]
    return nullptr;
  return heap.take_cached(request_of(heap, bytes, alignment));
}

Result<Block*> allocate_block(HeapCore& heap, std::size_t bytes, std::size_t alignment, const Deadline& deadline,
                              const char* call) noexcept {
  if (!heap.of_this_process()) return tl::unexpected(of_another_process_error(call));
  DeviceCore& device = *heap.arena().device();
  if (device.lost()) return tl::unexpected(device.lost_error(call));
  const auto possible = heap.arena().store().largest_possible();
  if (bytes > beyond_any_machine || size_class::round_up(bytes) > possible)
    return tl::unexpected(too_large_error(bytes, possible, call));
  if (const Quota& quota = heap.quota(); quota.limited() && size_class::round_up(bytes) > quota.limit())
    return tl::unexpected(quota_error(heap, bytes, false, call));
  if (alignment > page)
    return tl::unexpected(Error::make(Errc::invalid_argument, [&] {
      return std::string(call) + ": elements aligned to " + std::to_string(alignment) + " bytes; at most a page, " +
             std::to_string(page) + " bytes";
    }));
  const Request request = request_of(heap, bytes, alignment);
  // Where this thread left its last block is where one is most likely finished; else any stream, in turn.
  if (const auto recent = heap.recent(); recent != nullptr)
    collect_some(*recent);
  else
    collect_any(device);
  Block* block = heap.take_cached(request);
  if (block == nullptr) block = heap.take_from_store(request);
  bool over_quota = false;
  if (block == nullptr) block = take_from_anywhere(heap, request, over_quota);
  std::optional<Error> no_growth;
  const bool waits = deadline && !in_host_function();  // which may be what the device must get through first
  if (block == nullptr)
    block = take_by_growing(heap, request, waits ? Store::Waits::never : Store::Waits::for_others, no_growth);
  if (block == nullptr) block = take_from_anywhere(heap, request, over_quota);
  if (block == nullptr && waits) block = wait_for_memory(heap, request, deadline, over_quota, no_growth);
  if (block != nullptr) return block;
  if (device.lost()) return tl::unexpected(device.lost_error(call));
  if (over_quota) return tl::unexpected(quota_error(heap, bytes, waits, call));
  return tl::unexpected(exhausted_error(heap, bytes, request.alignment, no_growth, waits, call));
}

}  // namespace thole::inline v0_1::detail
