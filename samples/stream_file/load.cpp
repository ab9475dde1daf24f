// Into the device: read a piece into a pinned buffer, hand it to the stream, drop it, read the next.

#include <deque>

#include "job.hpp"

namespace stream_file {

Result load_lane(Job& job, std::size_t lane, const thole::Stream& stream) {
  Result result;
  const auto look = [&](Bytes bytes, std::uint64_t position) {
    result.on_cpu.look_at(bytes, position, job.plan.check);
  };
  const std::size_t share = job.plan.share(lane);
  std::deque<thole::Event> on_their_way;  // behind each copy

  for (Piece piece;;) {
    if (on_their_way.size() == share) {  // the lane's part of the window is full: the oldest copy first
      const Timed timed(job.log, lane, Doing::wait);
      on_their_way.front().synchronize();
      on_their_way.pop_front();
    }
    auto buffer = take_buffer(job, lane);
    const double taken = job.log != nullptr ? job.log->now() : 0;
    {
      Timed timed(job.log, lane, Doing::read);
      const auto bytes = buffer.borrow_mut();
      if (!job.feed.take(piece, bytes.span())) break;
      timed.bytes(piece.bytes);
      read_piece(piece, bytes.span(), job.plan.check == Check::none ? nullptr : std::function(look));
    }
    if (job.log != nullptr) job.log->take(lane, taken);
    const auto there = job.device.place(lane, result.pieces, piece);
    buffer.async_to_device(stream, there, 0, piece.bytes);
    note_copy(job, lane, stream, Doing::to_device, piece.bytes);
    on_their_way.push_back(stream.record());
    job.device.look_at(lane, stream, there, piece.position);

    result.bytes += piece.bytes;
    result.pieces += 1;
    result.copies += 1;
    job.bytes += piece.bytes;
  }  // `buffer` is dropped each time round, in flight: nobody waits for it

  stream.synchronize();
  return result;
}

}  // namespace stream_file
