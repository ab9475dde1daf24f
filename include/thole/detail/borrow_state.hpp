#pragma once

// Who holds a block: its handle, graphs, and borrows; and RefCell's rule about borrows. All of it is one word, changed
// by atomic read-modify-writes. The operation that removes the last holder returns true: exactly one caller gets
// that.

#include <atomic>
#include <cstdint>

namespace thole::inline v0_1::detail {

/// Dropping a handle and borrowing for writing need exclusive access to the handle, so that no other thread begins
/// anything meanwhile; where the handle is also the only holder, no thread can end anything either, and a plain store
/// is enough.
///
/// Thread safety: any thread may call anything, as long as it holds the block itself where that is said, but for those
/// two.
class BorrowState {
 public:
  /// A new handle holds the block; nobody else does. The caller alone knows the block.
  void open() noexcept { word_.store(handle, std::memory_order_relaxed); }

  /// Lets the handle go. True: nobody holds the block any more and the caller, alone, has it.
  bool drop_handle() noexcept {
    if (word_.load(std::memory_order_acquire) != handle) return take_away(handle);
    word_.store(0, std::memory_order_relaxed);  // alone: nobody else has anything to take away
    return true;
  }
  /// One more graph uses the block; the caller holds it.
  void add_graph() noexcept { word_.fetch_add(graph, std::memory_order_relaxed); }
  /// Returns as drop_handle() does.
  bool drop_graph() noexcept { return take_away(graph); }

  /// RefCell's rule. False: a BorrowMut lives (for read), or any borrow does (for write). The caller holds the block.
  bool begin_read() noexcept {
    return add(reader, [](std::uint64_t word) { return (word & writer) == 0; });
  }
  bool begin_write() noexcept {
    if (word_.load(std::memory_order_acquire) == handle) [[likely]] {
      word_.store(handle | writer, std::memory_order_relaxed);  // alone, as in drop_handle()
      return true;
    }
    return begin_write_shared();
  }
  /// The same for callers who do not have exclusive access to the handle, or where there is none.
  bool begin_write_shared() noexcept {
    return add(writer, [](std::uint64_t word) { return (word & (writer | readers)) == 0; });
  }
  /// The caller's BorrowMut is a Borrow from now on, with no moment at which another could begin to write. Release:
  /// pairs with add(), so that whoever begins to read now sees what was written.
  void write_to_read() noexcept { word_.fetch_sub(writer - reader, std::memory_order_release); }
  /// Return as drop_handle() does.
  bool end_read() noexcept { return take_away(reader); }
  bool end_write() noexcept { return take_away(writer); }

  /// Number of live borrows, including those that `use_on` takes while its function runs. Acquire, as in add(): what a
  /// borrow that has ended on another thread read and wrote comes before what the caller enqueues when there is none.
  std::uint64_t borrows() const noexcept {
    const auto word = word_.load(std::memory_order_acquire);
    return (word & writer) != 0 ? 1 : (word & readers) / reader;
  }
  /// Whether a BorrowMut lives. Acquire, as borrows().
  bool has_writer() const noexcept { return (word_.load(std::memory_order_acquire) & writer) != 0; }
  /// Whether nobody holds the block; for reports and pictures.
  bool unreferenced() const noexcept { return word_.load(std::memory_order_relaxed) == 0; }
  /// Whether the handle is all that holds the block. Acquire, as begin_write(): the caller, alone, may end it.
  bool only_handle() const noexcept { return word_.load(std::memory_order_acquire) == handle; }
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

}  // namespace thole::inline v0_1::detail
