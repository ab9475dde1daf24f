// There and back: as load.cpp, and each piece comes back into a buffer of its own, which is compared with what was
// read.

#include <fmt/core.h>

#include <queue>
#include <stdexcept>
#include <utility>

#include "job.hpp"

namespace stream_file {
namespace {

/// A piece that comes back, and what it should be.
struct Returning {
  Piece piece;
  std::uint64_t sum = 0;
  PieceHash hash;
  thole::PinnedBuffer<unsigned char> buffer;
};

/// Waits for this one copy; the device goes on with the later ones.
void check_and_write(Job& job, std::size_t lane, const Returning& returning, Findings& back) {
  const auto borrow = [&] {
    const Timed timed(job.log, lane, Doing::wait);
    return returning.buffer.borrow();
  }();
  const Bytes bytes = borrow.span().first(returning.piece.bytes);
  {
    const Timed timed(job.log, lane, Doing::check, bytes.size());
    const std::uint64_t position = returning.piece.position;
    bool same = true;
    if (job.plan.check == Check::full) {
      const PieceHash hash(bytes, position);
      back.add(hash);
      same = hash == returning.hash;
    } else if (job.plan.check == Check::sum) {
      same = piece_sum(bytes, position) == returning.sum;
    }
    if (!same)
      throw std::runtime_error(fmt::format("what came back is not what was read: {} bytes from {} of {}", bytes.size(),
                                           returning.piece.offset, returning.piece.file->path()));
  }
  if (job.output == nullptr) return;
  const Timed timed(job.log, lane, Doing::write, bytes.size());
  job.output->write(returning.piece.position, bytes);
}

}  // namespace

Result round_trip_lane(Job& job, std::size_t lane, const thole::Stream& stream) {
  Result result;
  const auto look = [&](Bytes bytes, std::uint64_t position) {
    result.on_cpu.look_at(bytes, position, job.plan.check);
  };
  const std::size_t share = job.plan.share(lane);
  std::queue<Returning> on_their_way;
  const auto check_oldest = [&] {
    check_and_write(job, lane, on_their_way.front(), result.back);
    on_their_way.pop();
  };

  for (Piece piece;;) {
    if (on_their_way.size() == share) check_oldest();
    auto buffer = take_buffer(job, lane);
    const double taken = job.log != nullptr ? job.log->now() : 0;
    std::uint64_t sum = result.on_cpu.sum;
    PieceHash hash;
    {
      Timed timed(job.log, lane, Doing::read);
      const auto bytes = buffer.borrow_mut();
      if (!job.feed.take(piece, bytes.span())) break;
      timed.bytes(piece.bytes);
      read_piece(piece, bytes.span(), job.plan.check == Check::none ? nullptr : std::function(look));
      if (job.plan.check == Check::full) hash = PieceHash(bytes.span().first(piece.bytes), piece.position);
    }
    sum = result.on_cpu.sum - sum;
    result.on_cpu.add(hash);

    if (job.log != nullptr) job.log->take(lane, taken);
    const auto there = job.device.place(lane, result.pieces, piece);
    buffer.async_to_device(stream, there, 0, piece.bytes);
    note_copy(job, lane, stream, Doing::to_device, piece.bytes);
    job.device.look_at(lane, stream, there, piece.position);
    auto back = take_buffer(job, lane);
    if (job.log != nullptr) job.log->take(lane, job.log->now());
    back.async_from_device(stream, there);
    note_copy(job, lane, stream, Doing::to_host, piece.bytes);
    on_their_way.push({piece, sum, hash, std::move(back)});

    result.bytes += piece.bytes;
    result.pieces += 1;
    result.copies += 2;
    job.bytes += piece.bytes;
  }  // `buffer` is dropped each time round, in flight: nobody waits for it

  while (!on_their_way.empty()) check_oldest();
  stream.synchronize();
  return result;
}

}  // namespace stream_file
