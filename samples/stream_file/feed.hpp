#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <gsl/span>
#include <mutex>
#include <optional>
#include <vector>

#include "checks.hpp"
#include "input.hpp"

namespace stream_file {

/// Files stand in the job one after the other, each from a multiple of this on.
constexpr std::uint64_t file_alignment = 4096;

/// A stretch of one file.
struct Piece {
  const InputFile* file = nullptr;
  std::uint64_t offset = 0;    ///< In the file.
  std::uint64_t position = 0;  ///< In the job.
  std::size_t bytes = 0;
  bool is_read = false;  ///< Of a file without a size: its bytes were read when it was taken.
};

/// Some files as pieces, for several threads that read them.
///
/// Thread safety: all members may be called by many threads at once.
class Feed {
 public:
  /// The files must live as long. `limit`: how many bytes at most, of files with sizes. Of `parts` feeds of the same
  /// files, this is number `part`, with its share of the pieces, side by side.
  Feed(const std::vector<InputFile>& files, std::size_t chunk, std::uint64_t limit = UINT64_MAX, std::size_t part = 0,
       std::size_t parts = 1);

  /// The next piece, which is the caller's alone; false at the end. Where files have no size it is read at once, into
  /// `into` (a chunk): one thread after the other.
  bool take(Piece& piece, gsl::span<unsigned char> into);

  /// From now on there are no more pieces.
  void stop() noexcept { stop_ = true; }
  bool stopped() const noexcept { return stop_; }

  /// How many bytes this feed has, if that is known.
  std::optional<std::uint64_t> total() const noexcept { return total_; }
  /// Likewise: where its first byte stands in the job, how far it is from there to its end, holes between files
  /// included, and how many pieces that are.
  std::uint64_t base() const noexcept { return base_; }
  std::uint64_t extent() const noexcept { return extent_; }
  std::uint64_t pieces() const noexcept { return end_ - first_; }

 private:
  void choose_part(std::size_t part, std::size_t parts);
  bool take_sized(Piece& piece, std::uint64_t size);
  bool take_unsized(Piece& piece, gsl::span<unsigned char> into);

  const std::vector<InputFile>& files_;
  const std::size_t chunk_;
  std::optional<std::uint64_t> total_ = 0;
  std::uint64_t base_ = 0, extent_ = 0;

  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::size_t file_ = 0;                        // the one being read
  std::uint64_t offset_ = 0;                    // in it
  std::uint64_t start_ = 0;                     // where it stands in the job
  std::uint64_t number_ = 0;                    // of the next piece
  std::uint64_t left_;                          // bytes, of the limit
  std::uint64_t first_ = 0, end_ = UINT64_MAX;  // numbers of this part's pieces
};

/// Reads the piece into the span and hands what it read to `look`, while it is in the CPU's cache: a stretch at a time,
/// with its position in the job.
void read_piece(const Piece& piece, gsl::span<unsigned char> into,
                const std::function<void(Bytes, std::uint64_t)>& look);

}  // namespace stream_file
