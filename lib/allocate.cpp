#include "allocate.hpp"

#include <algorithm>
#include <string>
#include <thread>

#include "reclaim.hpp"
#include "size_class.hpp"
#include "thread_caches.hpp"
#include "timelines.hpp"

namespace thole::detail {
namespace {

Error too_large_error(std::size_t bytes, std::size_t possible, const char* call) {
  return Error(Errc::too_large, std::string(call) + ": " + std::to_string(bytes) +
                                    " bytes are more than the arena can ever hold in one piece, " +
                                    std::to_string(possible) + " bytes");
}

Error exhausted_error(HeapCore& heap, std::size_t bytes, const std::optional<Error>& no_growth, bool timed_out,
                      const char* call) {
  const auto store = heap.arena().store().stats();
  const auto heaps = heap.arena().sum();
  std::string text = std::string(call) + (timed_out ? ": in the given time, no" : ": no") + " pinned memory for " +
                     std::to_string(bytes) + " bytes: " + std::to_string(store.free) + " free, " +
                     std::to_string(store.largest_free) + " in the largest free piece, " +
                     std::to_string(heaps.in_flight) + " in flight, " + std::to_string(heaps.in_use) + " in use, of " +
                     std::to_string(store.capacity) + " (the arena may grow to " + std::to_string(store.max_capacity) +
                     ")";
  if (no_growth) text += std::string("; it could not grow: ") + no_growth->what();
  return Error(timed_out ? Errc::timed_out : Errc::out_of_memory, text);
}

/// What is kept or finished anywhere, without waiting for the device.
Block* take_from_anywhere(HeapCore& heap, std::size_t bytes, std::size_t alignment) noexcept {
  DeviceCore& device = *heap.arena().device();
  for (;;) {
    // Another thread may have taken finished blocks from a stream and not put them anywhere yet.
    const bool others = device.reclaiming.load(std::memory_order_acquire) != 0;
    collect(device);
    if (Block* const block = heap.take_cached(bytes, alignment)) return block;
    if (Block* const block = heap.take_from_store(bytes, alignment)) return block;
    heap.arena().flush();
    if (Block* const block = heap.take_from_store(bytes, alignment)) return block;
    if (!others) return nullptr;
    std::this_thread::yield();
  }
}

/// By growing; nullptr with the reason when the arena cannot, or may not.
Block* take_by_growing(HeapCore& heap, std::size_t bytes, std::size_t alignment, std::optional<Error>& no_growth) {
  Store& store = heap.arena().store();
  for (;;) {
    const auto seen = store.growths();
    if (Block* const block = heap.take_from_store(bytes, alignment)) return block;
    if (auto grown = store.grow(bytes, seen); !grown) {
      no_growth = std::move(grown.error());
      return nullptr;
    }
  }
}

/// Copies in flight give memory back in any stream, so that no single event can be waited for: look again, ever less often.
Block* wait_for_memory(HeapCore& heap, std::size_t bytes, std::size_t alignment, const Deadline& deadline) noexcept {
  constexpr auto longest_pause = std::chrono::microseconds(1000);
  auto pause = std::chrono::microseconds(10);
  heap.count_waited();
  while (!heap.arena().device()->lost()) {
    if (Block* const block = take_from_anywhere(heap, bytes, alignment)) return block;
    const auto now = std::chrono::steady_clock::now();
    if (now >= *deadline) return nullptr;
    std::this_thread::sleep_for(std::min<std::chrono::nanoseconds>(pause, *deadline - now));
    pause = std::min(pause * 2, longest_pause);
  }
  return nullptr;
}

Result<Block*> allocate_slowly(HeapCore& heap, std::size_t asked, std::size_t bytes, std::size_t alignment,
                               const Deadline& deadline, const char* call) {
  DeviceCore& device = *heap.arena().device();
  if (const auto possible = heap.arena().store().largest_possible(); bytes > possible)
    return tl::unexpected(too_large_error(asked, possible, call));
  if (alignment > size_class::page)
    return tl::unexpected(Error(Errc::invalid_argument, std::string(call) + ": elements aligned to " +
                                                            std::to_string(alignment) + " bytes; at most a page, " +
                                                            std::to_string(size_class::page) + " bytes"));
  // Where this thread left its last block is where one is most likely finished; else any stream, in turn.
  if (Timeline* const recent = ThreadCaches::recent(); recent != nullptr)
    collect_some(*recent);
  else
    collect_any(device);
  Block* block = heap.take_cached(bytes, alignment);
  if (block == nullptr) block = heap.take_from_store(bytes, alignment);
  if (block == nullptr) block = take_from_anywhere(heap, bytes, alignment);
  std::optional<Error> no_growth;
  if (block == nullptr) block = take_by_growing(heap, bytes, alignment, no_growth);
  if (block == nullptr) block = take_from_anywhere(heap, bytes, alignment);
  if (block == nullptr && deadline) block = wait_for_memory(heap, bytes, alignment, deadline);
  if (block != nullptr) {
    heap.note_peak(block->capacity);
    return block;
  }
  if (device.lost()) return tl::unexpected(device.lost_error(call));
  return tl::unexpected(exhausted_error(heap, asked, no_growth, deadline.has_value(), call));
}

}  // namespace

Result<Block*> allocate_block(HeapCore& heap, std::size_t asked, std::size_t alignment, const Deadline& deadline,
                              const char* call) noexcept {
  constexpr std::size_t beyond_any_machine = std::size_t{1} << 46;
  DeviceCore& device = *heap.arena().device();
  if (device.lost()) [[unlikely]]
    return tl::unexpected(device.lost_error(call));
  if (asked > beyond_any_machine) [[unlikely]]
    return tl::unexpected(too_large_error(asked, heap.arena().store().largest_possible(), call));
  const std::size_t bytes = size_class::round_up(asked);
  alignment = std::max(alignment, heap.alignment());
  if (Block* const block = heap.take_cached(bytes, alignment)) [[likely]]
    return block;
  return allocate_slowly(heap, asked, bytes, alignment, deadline, call);
}

}  // namespace thole::detail
