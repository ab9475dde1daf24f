#pragma once

// Who still holds a block: its handle, graphs, and borrows; and RefCell's rule about borrows.
//
// A borrow costs no read-modify-write where it ends on the thread that works with the buffer, which is why the counts
// are split: `begun_` is written by the thread that uses the buffer (one at a time: PinnedBuffer's rule), `ended_here_`
// by the owner thread alone, and `ended_elsewhere_`, with a real atomic increment, by all others. The owner changes
// only while no borrow is out, so nobody else is about to write `ended_here_`.
//
// The last to let go recycles the block. Who drops the handle and who ends the last borrow may do so at the same moment
// on two threads; each writes its own word and then reads the other's. The side that is rare (a drop under a live
// borrow) pays for the full barrier on behalf of both (has_asymmetric_fence.hpp). Where there is none, ending a borrow
// pays with an atomic exchange.

#include <atomic>
#include <cstdint>

#include <thole/detail/asymmetric_fence.hpp>
#include <thole/export.hpp>

namespace thole::detail {

/// The cheapest name for a thread: one load, where the address of a thread_local in a shared library takes three
/// instructions. A later thread may get the same one: its predecessor is gone then, so there is still one writer.
inline const void* this_thread() noexcept { return __builtin_thread_pointer(); }

class THOLE_EXPORT Hold {
 public:
  /// A new handle holds the block; nobody else does.
  void open() noexcept {
    // Released to whoever receives the buffer by the program's own hand-over.
    word_.store((((word_.load(std::memory_order_relaxed) >> generation_shift) + 1) << generation_shift) | handle,
                std::memory_order_relaxed);
  }

  /// Lets the handle go. True: nobody holds the block any more and the caller, alone, recycles it.
  bool drop_handle() noexcept {
    // Without graphs and borrows nobody else can touch the word any more, so that a store is enough: a late
    // end_borrow(), which has counted itself already, finds the block held, before as after.
    if (const auto word = word_.load(std::memory_order_relaxed); (word & held) == handle && borrows() == 0) {
      word_.store((word & ~held) | claimed, std::memory_order_relaxed);
      return true;
    }
    // seq_cst: before the reads of the counts in settle(), against end_borrow().
    const auto now = word_.fetch_sub(handle, std::memory_order_seq_cst) - handle;
    return (now & held) == 0 && settle(now);
  }

  /// One more graph node uses the block; needs a handle.
  void add_graph() noexcept { word_.fetch_add(graph, std::memory_order_relaxed); }
  /// Returns as drop_handle() does.
  bool drop_graph() noexcept {
    const auto now = word_.fetch_sub(graph, std::memory_order_seq_cst) - graph;
    return (now & held) == 0 && settle(now);
  }

  /// RefCell's rule. False: a BorrowMut lives (for read), or any borrow does (for write).
  bool begin_read() noexcept {
    const auto begun = begun_.load(std::memory_order_relaxed);
    if (borrows(begun) == 0) [[likely]]
      own();
    else if ((begun & exclusive) != 0)
      return false;
    begun_.store((begun & ~exclusive) + one, std::memory_order_relaxed);
    return true;
  }
  bool begin_write() noexcept {
    const auto begun = begun_.load(std::memory_order_relaxed);
    if (borrows(begun) != 0) [[unlikely]]
      return false;
    own();
    begun_.store((begun | exclusive) + one, std::memory_order_relaxed);
    return true;
  }
  /// Returns as drop_handle() does.
  bool end_borrow() noexcept {
    if (owner_.load(std::memory_order_relaxed) == this_thread()) [[likely]] {
      // Release: pairs with borrows().
      ended_here_.store(ended_here_.load(std::memory_order_relaxed) + one, std::memory_order_release);
      std::atomic_signal_fence(std::memory_order_seq_cst);  // the other half is settle()'s process barrier
    } else {
      ended_elsewhere_.fetch_add(one, std::memory_order_seq_cst);
    }
    // seq_cst: after the count, against drop_handle() and drop_graph().
    const auto word = word_.load(std::memory_order_seq_cst);
    return (word & held) == 0 && borrows() == 0 && claim(word);
  }

  /// Live borrows, and whether the one is exclusive; for the owner of the handle.
  std::uint32_t borrows() const noexcept { return borrows(begun_.load(std::memory_order_relaxed)); }
  bool written_by_host() const noexcept {
    const auto begun = begun_.load(std::memory_order_relaxed);
    return (begun & exclusive) != 0 && borrows(begun) != 0;
  }
  /// For reports: nobody holds the block; for pictures, not for decisions.
  bool nobody() const noexcept {
    const auto word = word_.load(std::memory_order_relaxed) & held;
    return word == 0 || (word & claimed) != 0;
  }
  /// For reports: whether the program has let go of the handle.
  bool dropped() const noexcept { return (word_.load(std::memory_order_relaxed) & handle) == 0; }

 private:
  static constexpr std::uint64_t graph = 1;  // one per graph node, 29 bits
  static constexpr std::uint64_t handle = std::uint64_t{1} << 30;
  static constexpr std::uint64_t claimed = std::uint64_t{1} << 31;  // somebody recycles it
  static constexpr std::uint64_t held = 0xffffffff;
  static constexpr unsigned generation_shift = 32;  // so that a late claim cannot hit the next handle

  std::uint32_t borrows(std::uint32_t begun) const noexcept {
    // Acquire: pairs with the ends' releases, so that what a borrow on another thread wrote is seen.
    return ((begun & ~exclusive) - ended_here_.load(std::memory_order_acquire) -
            ended_elsewhere_.load(std::memory_order_acquire)) /
           one;
  }
  /// No borrow is out: from now on this thread ends borrows cheaply; nobody does where the process has no barrier.
  void own() noexcept {
    if (owner_.load(std::memory_order_relaxed) == this_thread()) [[likely]]
      return;
    if (has_asymmetric_fence.load(std::memory_order_relaxed)) owner_.store(this_thread(), std::memory_order_relaxed);
  }
  bool settle(std::uint64_t word) noexcept;
  bool claim(std::uint64_t word) noexcept {
    return word_.compare_exchange_strong(word, word | claimed, std::memory_order_acq_rel);
  }

  std::atomic<std::uint64_t> word_{0};
  std::atomic<const void*> owner_{nullptr};  // the thread that may write ended_here_
  // Counts in steps of `one`; begun_ says in its lowest bit whether the last that began is a BorrowMut.
  static constexpr std::uint32_t exclusive = 1;
  static constexpr std::uint32_t one = 2;
  std::atomic<std::uint32_t> begun_{0};
  std::atomic<std::uint32_t> ended_here_{0};
  std::atomic<std::uint32_t> ended_elsewhere_{0};
};

}  // namespace thole::detail
