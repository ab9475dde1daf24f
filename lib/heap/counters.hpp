#pragma once

// What is counted in a heap. Each thread's cache has its own share of every count, so that counting needs no
// read-modify-write; the heap's figure is the sum of the shares.

#include <atomic>
#include <cstddef>

#include "base/count.hpp"

namespace thole::inline v0_1::detail {

/// One thread's share (Number is Count) or a sum of shares. A block may be made on one thread and released on another,
/// so a share of what is held now may be negative: it wraps, and the sum is right again.
template <class Number>
struct Counters {
  // Blocks, since the heap was made.
  Number made{};           ///< handed to the program
  Number freed_at_once{};  ///< released while no stream used them
  Number deferred{};       ///< released while a stream used them
  Number recycled{};       ///< deferred ones that the streams are done with
  Number waited{};         ///< requests that waited for copies in flight
  // Bytes of capacity, now.
  Number in_use{};     ///< in blocks that the program holds
  Number in_flight{};  ///< in blocks that are deferred
  Number waste{};      ///< in blocks that the program holds, beyond what it asked for

  template <class Other>
  void add(const Counters<Other>& other) noexcept {
    made += other.made;
    freed_at_once += other.freed_at_once;
    deferred += other.deferred;
    recycled += other.recycled;
    waited += other.waited;
    in_use += other.in_use;
    in_flight += other.in_flight;
    waste += other.waste;
  }
};

using Counts = Counters<Count>;

/// The most that a figure has ever been. Any thread may note and read. Relaxed: a figure.
class Peak {
 public:
  void note(std::size_t now) noexcept {
    std::size_t before = most_.load(std::memory_order_relaxed);
    while (before < now && !most_.compare_exchange_weak(before, now, std::memory_order_relaxed)) {
    }
  }
  std::size_t get() const noexcept { return most_.load(std::memory_order_relaxed); }
  void reset() noexcept { most_.store(0, std::memory_order_relaxed); }

 private:
  std::atomic<std::size_t> most_{0};
};

}  // namespace thole::inline v0_1::detail
