#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "checks.hpp"

namespace stream_file {

/// What the job does: into the device, or there and back.
enum class Mode { load, round_trip };

/// What the user asked for; 0: choose.
struct Wishes {
  Mode mode = Mode::load;
  Check check = Check::sum;
  std::size_t chunk = 0;  ///< bytes
  std::size_t threads = 0;
  std::size_t window = 0;                      ///< pieces
  std::size_t arena = std::size_t{128} << 20;  ///< bytes
  bool direct = false;
};

/// How the work is cut. Each reader thread is a lane with a stream of its own; at most `window` pieces are on their way
/// at a time, each with `places` pinned buffers.
struct Plan {
  Mode mode = Mode::load;
  Check check = Check::sum;
  std::size_t chunk = 0;    ///< bytes
  std::size_t threads = 0;  ///< lanes
  std::size_t window = 0;   ///< pieces
  std::size_t places = 1;
  std::size_t pinned_bytes = 0;  ///< What the arena needs for that.
  bool direct = false;

  /// Pieces of one lane, at most, and the number of pieces of all lanes before it.
  std::size_t share(std::size_t lane) const noexcept { return window / threads + (lane < window % threads ? 1 : 0); }
  std::size_t share_before(std::size_t lane) const noexcept;
};

/// Of a job whose largest file may be known. Throws `std::runtime_error` for what cannot be.
Plan make_plan(const Wishes& wishes, std::optional<std::uint64_t> largest_file, std::size_t cores, bool simulated);
/// The same with no more threads and places in the window than there are pieces.
Plan for_pieces(Plan plan, std::uint64_t pieces);

/// 4 MiB, 1.5 GiB and so on.
std::string human_bytes(double bytes);

}  // namespace stream_file
