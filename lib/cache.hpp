#pragma once

// The free blocks that one thread keeps of one heap, by size class, and that thread's counts. Taking and putting needs no lock:
// the owner fills its slots, and both the owner and a thread that is short of memory empty them by exchange. What an idle
// thread keeps is therefore everybody's.

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "block.hpp"
#include "size_class.hpp"

namespace thole::detail {

/// A count that one thread writes and others read: no read-modify-write.
class Count {
 public:
  void add(std::uint64_t amount) noexcept {
    value_.store(value_.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
  }
  std::uint64_t get() const noexcept { return value_.load(std::memory_order_relaxed); }
  void reset() noexcept { value_.store(0, std::memory_order_relaxed); }

 private:
  std::atomic<std::uint64_t> value_{0};
};

/// What one thread has done in one heap. Bytes are capacities.
struct Counts {
  Count made, made_bytes, made_waste;        ///< waste: capacity beyond what was asked for
  Count let_go, let_go_bytes, let_go_waste;  ///< nobody holds it any more
  Count at_once;                             ///< of those, the ones that nothing was in flight for
  Count deferred_bytes;
  Count recycled, recycled_bytes;            ///< deferred ones that came back
  Count waited;

  void reset() noexcept;
};

/// Where the slots of each class begin in a cache; at the end, how many there are.
inline constexpr auto first_slot = [] {
  std::array<std::size_t, size_class::count + 1> first{};
  for (std::size_t index = 0; index != size_class::count; ++index)
    first[index + 1] = first[index] + size_class::kept(index);
  return first;
}();

class Cache {
 public:
  /// A block of at least `bytes` (rounded by size_class) at a multiple of `alignment`, or nullptr. The owner only.
  Block* take(std::size_t bytes, std::size_t alignment) noexcept;
  /// False when the class is full. The owner only.
  bool put(Block* block) noexcept;
  /// Moves blocks of one class to `out`, all or about half of them; any thread.
  void empty_class(std::size_t index, bool all, BlockList& out) noexcept;
  /// Moves everything to `out`; any thread.
  void empty(BlockList& out) noexcept;
  /// Bytes, at least; any thread.
  std::size_t bytes() const noexcept;

  Counts counts;
  /// Blocks that came back for good. The heap ends when they are all back: a release after the block was put where others find
  /// it, and before the thread looks whether the heap is closed (seq_cst, against HeapCore::close).
  std::atomic<std::uint64_t> returned{0};
  void add_returned() noexcept {
    returned.exchange(returned.load(std::memory_order_relaxed) + 1, std::memory_order_seq_cst);
  }

  Cache* next = nullptr;   ///< all caches of the heap; set once
  bool owned = false;      ///< by a thread; under the heap's mutex

 private:
  using Slot = std::atomic<Block*>;
  Block* take_class(std::size_t index, std::size_t bytes, std::size_t alignment) noexcept;

  std::array<std::uint8_t, size_class::count> used_{};  // slots below may hold a block; the owner's
  std::array<Slot, first_slot[size_class::count]> slots_{};
};

}  // namespace thole::detail
