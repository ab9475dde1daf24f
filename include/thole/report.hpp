#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <thole/detail/std_parts.hpp>
#include <thole/export.hpp>
#include <thole/source_location.hpp>

namespace thole::inline v0_1 {

/// One block of pinned memory that a stream still uses.
/// Thread safety: plain data, as all here.
struct InFlightBlock {
  std::uint64_t stream_id = 0;      ///< As cudaStreamGetId says.
  std::size_t bytes = 0;            ///< Of pinned memory that it holds.
  std::chrono::nanoseconds age{0};  ///< Since the oldest use that is still open was enqueued, to some milliseconds.
  SourceLocation made_at;           ///< Where the buffer was made.
  bool dropped = false;             ///< The program has dropped the buffer.
};

/// All that one stream holds.
struct InFlightStream {
  std::uint64_t stream_id = 0;         ///< As cudaStreamGetId says.
  std::size_t blocks = 0;              ///< How many it holds.
  std::size_t bytes = 0;               ///< Of pinned memory that it holds.
  std::chrono::nanoseconds oldest{0};  ///< The age of the oldest.
};

/// One buffer that the program holds: its handle, borrows of it, or graphs and lists that name it.
struct LiveBuffer {
  std::size_t bytes = 0;      ///< Of pinned memory that it holds.
  SourceLocation made_at;     ///< Where the buffer was made.
  std::size_t borrows = 0;    ///< Live `Borrow`s.
  bool borrowed_mut = false;  ///< A `BorrowMut` lives.
  bool dropped = false;       ///< The handle is gone; the rest holds it.
};

/// What is in flight, and what the program holds, as data and as text, from `PinnedHeap::report()`: streams by bytes,
/// largest first.
struct [[nodiscard]] THOLE_EXPORT Report {
  /// By bytes, largest first.
  std::vector<InFlightStream> streams;
  /// What they hold.
  std::vector<InFlightBlock> blocks;
  /// What the program holds.
  std::vector<LiveBuffer> live;

  /// One line a stream, and below it one line for each place in the program that made such blocks; then one line for
  /// each place that made buffers which the program holds.
  std::string text() const;
};

}  // namespace thole::inline v0_1
