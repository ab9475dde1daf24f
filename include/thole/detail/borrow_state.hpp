#pragma once

// Who holds a block: its handle, graphs, and borrows; and RefCell's rule about borrows. All of it is one word, changed
// by atomic read-modify-writes alone: who takes the last hold away learns so from the very operation that took it, and
// nobody else does.

#include <atomic>
#include <cstdint>

namespace thole::detail {

/// Thread safety: any thread may call anything, as long as it holds the block itself where that is said.
class BorrowState {
 public:
  /// A new handle holds the block; nobody else does. The caller alone knows the block.
  void open() noexcept { word_.store(handle, std::memory_order_relaxed); }

  /// Lets the handle go. True: nobody holds the block any more and the caller, alone, has it.
  bool drop_handle() noexcept { return take_away(handle); }
  /// One more graph uses the block; the caller holds it.
  void add_graph() noexcept { word_.fetch_add(graph, std::memory_order_relaxed); }
  /// Returns as drop_handle() does.
  bool drop_graph() noexcept { return take_away(graph); }

  /// RefCell's rule. False: a BorrowMut lives (for read), or any borrow does (for write). The caller holds the block.
  bool begin_read() noexcept {
    return add(reader, [](std::uint64_t word) { return (word & writer) == 0; });
  }
  bool begin_write() noexcept {
    return add(writer, [](std::uint64_t word) { return (word & (writer | readers)) == 0; });
  }
  /// Return as drop_handle() does.
  bool end_read() noexcept { return take_away(reader); }
  bool end_write() noexcept { return take_away(writer); }

  /// Live borrows, uses under way among them.
  std::uint64_t borrows() const noexcept {
    const auto word = word_.load(std::memory_order_relaxed);
    return (word & writer) != 0 ? 1 : (word & readers) / reader;
  }
  /// Whether the one borrow that lives is exclusive.
  bool written_by_host() const noexcept { return (word_.load(std::memory_order_relaxed) & writer) != 0; }
  /// Whether nobody holds the block; for reports and pictures.
  bool unreferenced() const noexcept { return word_.load(std::memory_order_relaxed) == 0; }
  /// Whether the program has let go of the handle; for reports.
  bool dropped() const noexcept { return (word_.load(std::memory_order_relaxed) & handle) == 0; }

 private:
  static constexpr std::uint64_t reader = 1;                      // one per Borrow
  static constexpr std::uint64_t readers = 0x7fffffff;            // 31 bits
  static constexpr std::uint64_t graph = std::uint64_t{1} << 31;  // one per graph node, 31 bits
  static constexpr std::uint64_t handle = std::uint64_t{1} << 62;
  static constexpr std::uint64_t writer = std::uint64_t{1} << 63;  // a BorrowMut

  /// Acquire: pairs with take_away(), so that a borrow sees what the ones before it wrote.
  template <class Allowed>
  bool add(std::uint64_t what, Allowed allowed) noexcept {
    auto word = word_.load(std::memory_order_relaxed);
    do {
      if (!allowed(word)) return false;
    } while (!word_.compare_exchange_weak(word, word + what, std::memory_order_acquire, std::memory_order_relaxed));
    return true;
  }
  /// Release, and acquire for the last: what every holder wrote is done before the memory is used again.
  bool take_away(std::uint64_t what) noexcept { return word_.fetch_sub(what, std::memory_order_acq_rel) == what; }

  std::atomic<std::uint64_t> word_{0};
};

}  // namespace thole::detail
