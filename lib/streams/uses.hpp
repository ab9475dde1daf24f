#pragma once

// The rules about uses: which are open, who must wait for which. A reader waits for writes, a writer for everything.

#include <cstdint>

#include <thole/detail/use.hpp>
#include "streams/timeline.hpp"

namespace thole::detail {

/// Which uses count: those that a reader must wait for, or those that a writer must.
enum class Against { writes, everything };

/// Calls `f(timeline, position)` for each open use, until it returns false. Returns whether all returned true.
template <class F>
bool for_each_open(const Uses& uses, Against against, F&& f) {
  const auto visit = [&](const Use& use) {
    Timeline* const timeline = use.timeline.load(std::memory_order_relaxed);
    if (timeline == nullptr) return true;
    auto position = use.write.load(std::memory_order_relaxed);
    if (against == Against::everything)
      if (const auto read = use.read.load(std::memory_order_relaxed); read > position) position = read;
    return timeline->done(position) || f(*timeline, position);
  };
  if (!visit(uses.first)) return false;
  for (const UseChunk* chunk = uses.more.load(std::memory_order_acquire); chunk != nullptr;
       chunk = chunk->next.load(std::memory_order_acquire))
    for (const Use& use : chunk->uses)
      if (!visit(use)) return false;
  return true;
}

/// Whether any is open, as far as is known without asking the device.
inline bool any_open(const Uses& uses, Against against) noexcept {
  return !for_each_open(uses, against, [](Timeline&, std::uint64_t) { return false; });
}

/// The first open use, or nullptr.
inline Timeline* first_open(const Uses& uses, std::uint64_t* position) noexcept {
  Timeline* found = nullptr;
  for_each_open(uses, Against::everything, [&](Timeline& timeline, std::uint64_t at) {
    found = &timeline;
    *position = at;
    return false;
  });
  return found;
}

/// The first device of an open use that is lost, or nullptr: who must be named where a wait or an order fails.
DeviceCore* lost_device(const Uses& uses) noexcept;
/// The slot for this stream's uses: its own, one that is complete, or a new one. nullptr: the system has no memory.
Use* slot_for(Uses& uses, Timeline& timeline) noexcept;
/// Nothing is open: forgets the streams.
void clear(Uses& uses) noexcept;
/// ok when nothing is open; asks the device, but never waits (not_ready).
Status query(const Uses& uses, Against against) noexcept;
/// Blocks until nothing is open.
Status wait(const Uses& uses, Against against) noexcept;
/// Makes the stream of `timeline` wait for the open uses in other streams; does not block.
Status order_after(const Uses& uses, Against against, Timeline& timeline) noexcept;

}  // namespace thole::detail
