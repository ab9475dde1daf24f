// The ways on the simulated device, through thole's own calls, since nothing else reaches it. It has no driver that
// would stage pageable memory, so this file stages it, as a driver does: through one pinned buffer.

#include <algorithm>
#include <array>
#include <optional>

#include "peers.hpp"

namespace stream_file {
namespace {

using Buffer = thole::PinnedBuffer<unsigned char>;
using OnDevice = thole::DeviceBuffer<unsigned char>;

constexpr std::size_t spare = std::size_t{512} << 10;

thole::PinnedHeap heap_of(const thole::Device& device, std::size_t bytes,
                          thole::PinMethod method = thole::PinMethod::register_pages) {
  return thole::PinnedHeap(thole::PinnedArena(device, {.bytes = bytes + spare, .pin_method = method}));
}

std::size_t chunk_of(const PeerJob& job) {
  return static_cast<std::size_t>(std::min<std::uint64_t>(job.chunk, job.bytes));
}

double link(const thole::Device& device, const PeerJob& job) {
  const std::size_t ways = job.round_trip ? 2 : 1;
  const auto most = static_cast<std::size_t>(std::min<std::uint64_t>(pinned_for_link / 2, job.bytes));
  const auto heap = heap_of(device, ways * most);
  const thole::Stream up(device), down(device);
  auto there = heap.make_buffer<unsigned char>(most, 1);
  std::optional<Buffer> back;
  if (job.round_trip) back.emplace(heap.make_buffer<unsigned char>(most, 1));
  OnDevice on_device(up, most), other(down, most);
  there.async_to_device(up, on_device.span());
  there.async_to_device(down, other.span());
  up.synchronize();
  down.synchronize();
  const Stopwatch watch;
  in_parts(job.bytes, most, [&](std::size_t bytes) {
    there.async_to_device(up, on_device.span(), 0, bytes);
    if (back) back->async_from_device(down, other.span().subspan(0, bytes));
  });
  up.synchronize();
  down.synchronize();
  return watch.seconds();
}

double from_mapping(const thole::Device& device, const PeerJob& job) {
  const std::size_t chunk = chunk_of(job);
  const auto heap = heap_of(device, chunk);
  const thole::Stream stream(device);
  auto staging = heap.make_buffer<unsigned char>(chunk);
  OnDevice on_device(stream, chunk);
  std::vector<unsigned char> back(job.round_trip ? chunk : 0);
  stream.synchronize();
  const Stopwatch watch;
  std::uint64_t left = job.bytes;
  for (const InputFile& file : job.files) {
    if (left == 0) break;
    if (*file.size() == 0) continue;
    const Mapping mapping(file);
    Bytes bytes = mapping.bytes();
    bytes = bytes.first(static_cast<std::size_t>(std::min<std::uint64_t>(bytes.size(), left)));
    left -= bytes.size();
    in_parts(bytes.size(), chunk, [&](std::size_t part) {
      std::copy_n(bytes.begin(), part, staging.borrow_mut().begin());
      bytes = bytes.subspan(part);
      staging.async_to_device(stream, on_device.span(), 0, part);
      if (!job.round_trip) return;
      staging.async_from_device(stream, on_device.span().subspan(0, part));
      std::copy_n(staging.borrow().begin(), part, back.begin());
    });
  }
  stream.synchronize();
  return watch.seconds();
}

double double_buffer(const thole::Device& device, const PeerJob& job) {
  const std::size_t chunk = chunk_of(job);
  const auto heap = heap_of(device, 2 * chunk);
  const thole::Stream stream(device);
  std::array<Buffer, 2> buffers{heap.make_buffer<unsigned char>(chunk), heap.make_buffer<unsigned char>(chunk)};
  std::array<std::optional<thole::Event>, 2> done;
  OnDevice on_device(stream, chunk);
  stream.synchronize();
  const Stopwatch watch;
  std::size_t turn = 0;
  each_piece(job, [&](const Piece& piece) {
    if (done[turn]) done[turn]->synchronize();
    auto& buffer = buffers[turn];
    {
      const auto bytes = buffer.borrow_mut();
      piece.file->read_at(piece.offset, bytes.span().first(piece.bytes));
    }
    buffer.async_to_device(stream, on_device.span(), 0, piece.bytes);
    if (job.round_trip) buffer.async_from_device(stream, on_device.span().subspan(0, piece.bytes));
    done[turn].emplace(stream.record());
    turn = 1 - turn;
  });
  stream.synchronize();
  return watch.seconds();
}

double fresh_arenas(const thole::Device& device, const PeerJob& job) {
  const std::size_t chunk = chunk_of(job);
  const thole::Stream stream(device);
  OnDevice on_device(stream, chunk);
  stream.synchronize();
  const Stopwatch watch;
  each_piece(job, [&](const Piece& piece) {
    const auto heap = heap_of(device, chunk, thole::PinMethod::host_alloc);
    auto buffer = heap.make_buffer<unsigned char>(chunk);
    {
      const auto bytes = buffer.borrow_mut();
      piece.file->read_at(piece.offset, bytes.span().first(piece.bytes));
    }
    buffer.async_to_device(stream, on_device.span(), 0, piece.bytes);
    if (job.round_trip) buffer.async_from_device(stream, on_device.span().subspan(0, piece.bytes));
    stream.synchronize();
  });
  return watch.seconds();
}

}  // namespace

std::vector<Peer> simulated_peers(const thole::Device& device) {
  const auto way = [device](double (*run)(const thole::Device&, const PeerJob&)) {
    return [device, run](const PeerJob& job) { return run(device, job); };
  };
  return {{link_key, "the bare link: pinned, large copies", way(link)},
          {"mapping", "from a mapping, staged as a driver does", way(from_mapping)},
          {"double_buffer", "a hand-written double buffer, 1 thread", way(double_buffer)},
          {"host_alloc", "a fresh pinned arena for each chunk", way(fresh_arenas)}};
}

}  // namespace stream_file
