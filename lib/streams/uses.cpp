#include "streams/uses.hpp"

#include <new>

namespace thole::detail {
namespace {

bool complete(const Use& use) noexcept {
  const Timeline* const timeline = use.timeline.load(std::memory_order_relaxed);
  return timeline == nullptr || (timeline->done(use.read.load(std::memory_order_relaxed)) &&
                                 timeline->done(use.write.load(std::memory_order_relaxed)));
}

void take(Use& use, Timeline& timeline) noexcept {
  use.read.store(0, std::memory_order_relaxed);
  use.write.store(0, std::memory_order_relaxed);
  use.timeline.store(&timeline, std::memory_order_relaxed);
}

}  // namespace

DeviceCore* lost_device(const Uses& uses) noexcept {
  DeviceCore* found = nullptr;
  for_each_open(uses, Against::everything, [&](Timeline& timeline, std::uint64_t) {
    if (timeline.device()->lost()) found = timeline.device();
    return found == nullptr;
  });
  return found;
}

Use* slot_for(Uses& uses, Timeline& timeline) noexcept {
  if (uses.first.timeline.load(std::memory_order_relaxed) == &timeline) return &uses.first;
  Use* vacant = complete(uses.first) ? &uses.first : nullptr;
  std::atomic<UseChunk*>* link = &uses.more;
  for (UseChunk* chunk = link->load(std::memory_order_relaxed); chunk != nullptr;
       link = &chunk->next, chunk = link->load(std::memory_order_relaxed))
    for (Use& use : chunk->uses) {
      if (use.timeline.load(std::memory_order_relaxed) == &timeline) return &use;
      if (vacant == nullptr && complete(use)) vacant = &use;
    }
  if (vacant == nullptr) {
    auto* const made = new (std::nothrow) UseChunk;
    if (made == nullptr) return nullptr;
    link->store(made, std::memory_order_release);  // pairs with the acquire in for_each_open()
    vacant = &made->uses[0];
  }
  take(*vacant, timeline);
  return vacant;
}

void clear(Uses& uses) noexcept {
  uses.first.timeline.store(nullptr, std::memory_order_relaxed);
  for (UseChunk* chunk = uses.more.load(std::memory_order_relaxed); chunk != nullptr;
       chunk = chunk->next.load(std::memory_order_relaxed))
    for (Use& use : chunk->uses) use.timeline.store(nullptr, std::memory_order_relaxed);
}

Status query(const Uses& uses, Against against) noexcept {
  Status status;
  for_each_open(uses, against, [&](Timeline& timeline, std::uint64_t position) {
    status = timeline.query(position);
    return status.ok();
  });
  return status;
}

Status wait(const Uses& uses, Against against) noexcept {
  Status status;
  for_each_open(uses, against, [&](Timeline& timeline, std::uint64_t position) {
    status = timeline.wait(position);
    return status.ok();
  });
  return status;
}

Status order_after(const Uses& uses, Against against, Timeline& waiter) noexcept {
  Status status;
  for_each_open(uses, against, [&](Timeline& timeline, std::uint64_t position) {
    if (&timeline == &waiter) return true;
    status = timeline.order_before(*waiter.device()->backend, waiter.native(), position);
    return status.ok();
  });
  return status;
}

}  // namespace thole::detail
