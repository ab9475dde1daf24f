#include "peers.hpp"

#include <sys/mman.h>

#include <algorithm>

#include "interrupt.hpp"

namespace stream_file {

std::vector<Peer> peers_for(const thole::Device& device) {
  if (device.backend() == thole::Backend::simulated) return simulated_peers(device);
#ifdef THOLE_SAMPLE_HAS_CUDA
  return cuda_peers(device);
#else
  return {};
#endif
}

void in_parts(std::uint64_t total, std::size_t most, const std::function<void(std::size_t)>& f) {
  while (total > 0) {
    stop_if_interrupted();
    const auto part = static_cast<std::size_t>(std::min<std::uint64_t>(total, most));
    f(part);
    total -= part;
  }
}

void each_piece(const PeerJob& job, const std::function<void(const Piece&)>& f) {
  Feed feed(job.files, job.chunk, job.bytes);
  for (Piece piece; feed.take(piece, {});) {
    stop_if_interrupted();
    f(piece);
  }
}

Mapping::Mapping(const InputFile& file)
    : length_(static_cast<std::size_t>(file.offset() + file.size().value_or(0))),
      offset_(static_cast<std::size_t>(file.offset())) {
  data_ = ::mmap(nullptr, length_, PROT_READ, MAP_SHARED, file.descriptor(), 0);
  if (data_ == MAP_FAILED) fail_on(file.path(), "map");
}

Mapping::~Mapping() { ::munmap(data_, length_); }

Bytes Mapping::bytes() const noexcept {
  return Bytes(static_cast<const unsigned char*>(data_), length_).subspan(offset_);
}

}  // namespace stream_file
