#pragma once

// The same bytes as programs move them without thole, and the bare link: what the job is compared with. Nothing is
// checked on these ways.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <thole/thole.hpp>
#include <vector>

#include "feed.hpp"
#include "input.hpp"

namespace stream_file {

/// The part of the job that is done again.
struct PeerJob {
  const std::vector<InputFile>& files;  ///< With sizes.
  std::uint64_t bytes;
  std::size_t chunk;
  bool round_trip;
};

/// One way of doing it.
struct Peer {
  const char* key;  ///< In the JSON.
  std::string name;
  std::function<double(const PeerJob&)> run;  ///< Seconds. Throws.
};

/// The ways for this device, the bare link first; none on a GPU where the program was built without CUDA.
std::vector<Peer> peers_for(const thole::Device& device);
/// The two that it chooses from; the second is in peers_cuda.cpp, compiled with CUDA only.
std::vector<Peer> simulated_peers(const thole::Device& device);
std::vector<Peer> cuda_peers(const thole::Device& device);

constexpr const char* link_key = "link";

/// Pinned bytes that the link's large copies use, in all.
constexpr std::size_t pinned_for_link = std::size_t{128} << 20;

/// Calls `f(bytes)` until all of `total` are done, with `most` at a time. Ends at Ctrl-C.
void in_parts(std::uint64_t total, std::size_t most, const std::function<void(std::size_t)>& f);
/// Calls `f(piece)` for each piece of the job. Ends at Ctrl-C.
void each_piece(const PeerJob& job, const std::function<void(const Piece&)>& f);

/// A file as memory. Throws.
class Mapping {
 public:
  explicit Mapping(const InputFile& file);
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping();
  /// The bytes of the job.
  Bytes bytes() const noexcept;

 private:
  void* data_;
  std::size_t length_, offset_;
};

/// Seconds since it was made.
class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace stream_file
