#include "feed.hpp"

#include <algorithm>

#include "interrupt.hpp"

namespace stream_file {
namespace {

// Bytes that a reader looks at while its core still has them: the second-level caches of today's servers hold 1 to 2
// MiB.
constexpr std::size_t stretch = std::size_t{256} << 10;

std::uint64_t aligned(std::uint64_t position) {
  return (position + file_alignment - 1) / file_alignment * file_alignment;
}

}  // namespace

Feed::Feed(const std::vector<InputFile>& files, std::size_t chunk, std::uint64_t limit, std::size_t part,
           std::size_t parts)
    : files_(files), chunk_(chunk), left_(limit) {
  if (std::all_of(files_.begin(), files_.end(), [](const InputFile& file) { return file.size().has_value(); }))
    choose_part(part, parts);
  else
    total_.reset();
}

void Feed::choose_part(std::size_t part, std::size_t parts) {
  const auto each_file = [this](const auto& f) {
    std::uint64_t left = left_, start = 0, number = 0;
    for (const InputFile& file : files_) {
      const std::uint64_t bytes = std::min(*file.size(), left), pieces = (bytes + chunk_ - 1) / chunk_;
      f(start, bytes, number, pieces);
      left -= bytes;
      start = aligned(start + bytes);
      number += pieces;
    }
    return number;
  };
  const std::uint64_t all = each_file([](auto...) {});
  first_ = all * part / parts;
  end_ = all * (part + 1) / parts;
  each_file([this](std::uint64_t start, std::uint64_t bytes, std::uint64_t number, std::uint64_t pieces) {
    const std::uint64_t from = std::min(bytes, (std::clamp(first_, number, number + pieces) - number) * chunk_);
    const std::uint64_t to = std::min(bytes, (std::clamp(end_, number, number + pieces) - number) * chunk_);
    if (from == to) return;
    if (*total_ == 0) base_ = start + from;
    *total_ += to - from;
    extent_ = start + to - base_;
  });
}

bool Feed::take(Piece& piece, gsl::span<unsigned char> into) {
  const std::lock_guard lock(mutex_);
  for (; file_ < files_.size() && left_ > 0 && !stop_; ++file_) {
    const auto size = files_[file_].size();
    piece = {&files_[file_], offset_, start_ + offset_, 0, !size};
    if (size ? take_sized(piece, *size) : take_unsized(piece, into)) return true;
    start_ = aligned(start_ + offset_);
    offset_ = 0;
  }
  return false;
}

bool Feed::take_sized(Piece& piece, std::uint64_t size) {
  while (offset_ < size && left_ > 0 && number_ < end_) {
    piece.offset = offset_;
    piece.position = start_ + offset_;
    piece.bytes = static_cast<std::size_t>(std::min<std::uint64_t>({chunk_, size - offset_, left_}));
    offset_ += piece.bytes;
    left_ -= piece.bytes;
    if (number_++ >= first_) return true;
  }
  return false;
}

bool Feed::take_unsized(Piece& piece, gsl::span<unsigned char> into) {
  piece.bytes =
      piece.file->read_next(into.first(static_cast<std::size_t>(std::min<std::uint64_t>(chunk_, left_))), stop_);
  offset_ += piece.bytes;
  left_ -= piece.bytes;
  return piece.bytes > 0;
}

void read_piece(const Piece& piece, gsl::span<unsigned char> into,
                const std::function<void(Bytes, std::uint64_t)>& look) {
  // Past the page cache the bytes come from the device, not through this core: one large read is best.
  const bool at_once = piece.file->direct() || !look;
  const std::size_t step = at_once ? piece.bytes : stretch;
  for (std::size_t done = 0; done < piece.bytes;) {
    const auto part = into.subspan(done, std::min(step, piece.bytes - done));
    stop_if_interrupted();
    if (!piece.is_read) piece.file->read_at(piece.offset + done, part);
    if (look) look(part, piece.position + done);
    done += part.size();
  }
}

}  // namespace stream_file
