#pragma once

// What the copies of one PinnedHeap share.

#include <cstddef>
#include <memory>
#include <utility>

#include "heap/heap_core.hpp"

namespace thole::inline v0_1::detail {

/// Owns an open heap, which it closes; keeps the arena.
class HeapHandle {
 public:
  /// Throws std::bad_alloc.
  HeapHandle(std::shared_ptr<ArenaCore> arena, const HeapSettings& settings)
      : arena_(std::move(arena)), heap_(HeapCore::open(arena_, settings)) {}
  ~HeapHandle() { heap_->close(); }
  HeapHandle(const HeapHandle&) = delete;
  HeapHandle& operator=(const HeapHandle&) = delete;

  const std::shared_ptr<ArenaCore>& arena() const noexcept { return arena_; }
  HeapCore& heap() const noexcept { return *heap_; }

 private:
  const std::shared_ptr<ArenaCore> arena_;
  HeapCore* const heap_;
};

}  // namespace thole::inline v0_1::detail
