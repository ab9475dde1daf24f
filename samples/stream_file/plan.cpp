#include "plan.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <stdexcept>

#include "input.hpp"

namespace stream_file {
namespace {

constexpr std::size_t page = 4096;
constexpr std::size_t spare = std::size_t{512} << 10;  // for the counters' way, and for the allocator's own

constexpr std::size_t rounded(std::size_t bytes) { return (bytes + page - 1) / page * page; }

/// Readers: seven cores of eight, so that some are left for the driver and for whoever waits, and no more than the link
/// and the memory can use.
std::size_t threads_for(std::size_t cores) { return std::clamp<std::size_t>(cores - cores / 8, 1, 16); }

/// Bytes: the smallest copies that the link moves at nearly its full speed; of a simulated device, which copies with
/// the CPU, what stays in a core's cache. Of small files less, so that all readers have something to do.
std::size_t chunk_for(std::optional<std::uint64_t> largest_file, std::size_t threads, bool simulated) {
  constexpr std::uint64_t least = std::uint64_t{256} << 10;
  const std::uint64_t most = simulated ? std::uint64_t{1} << 20 : std::uint64_t{4} << 20;
  const std::uint64_t fair = largest_file ? *largest_file / (4 * threads) : most;
  return rounded(static_cast<std::size_t>(std::clamp(fair, least, most)));
}

/// Each lane reads into one buffer while two are on their way.
constexpr std::size_t window_of_a_lane = 3;

}  // namespace

std::size_t Plan::share_before(std::size_t lane) const noexcept {
  return window / threads * lane + std::min(lane, window % threads);
}

Plan make_plan(const Wishes& wishes, std::optional<std::uint64_t> largest_file, std::size_t cores, bool simulated) {
  constexpr std::uint64_t most = std::uint64_t{1} << 60;  // what CLI11 makes of a number below 0 is beyond it, too
  if (wishes.arena == 0 || std::max(wishes.chunk, wishes.arena) > most ||
      std::max(wishes.window, wishes.threads) > most)
    throw std::runtime_error("--chunk, --threads, --window, --arena and --device-memory take numbers from 1 to 1E");
  if (wishes.threads > 4096) throw std::runtime_error("--threads: at most 4096");

  Plan plan;
  plan.mode = wishes.mode;
  plan.check = wishes.check;
  plan.direct = wishes.direct;
  plan.places = wishes.mode == Mode::load ? 1 : 2;
  plan.threads = wishes.threads != 0 ? wishes.threads : threads_for(cores);
  plan.chunk = wishes.chunk == 0 ? chunk_for(largest_file, plan.threads, simulated) : wishes.chunk;
  if (wishes.direct) plan.chunk = rounded(plan.chunk);
  if (largest_file) plan.chunk = std::min(plan.chunk, std::max(rounded(static_cast<std::size_t>(*largest_file)), page));

  const std::size_t piece = rounded(plan.chunk) * plan.places;
  const std::size_t fit = wishes.arena > spare ? (wishes.arena - spare) / piece : 0;
  plan.window =
      wishes.window != 0 ? wishes.window : std::min(std::max<std::size_t>(fit, 1), plan.threads * window_of_a_lane);
  if (plan.window > fit)
    throw std::runtime_error(fmt::format(
        "a window of {} times {}{} needs {} of pinned memory, and the arena has {}: choose a smaller --window or "
        "--chunk, or a larger --arena",
        plan.window, human_bytes(static_cast<double>(plan.chunk)), plan.places == 2 ? ", there and back," : "",
        human_bytes(static_cast<double>(plan.window) * static_cast<double>(piece) + static_cast<double>(spare)),
        human_bytes(static_cast<double>(wishes.arena))));
  return for_pieces(plan, UINT64_MAX);
}

Plan for_pieces(Plan plan, std::uint64_t pieces) {
  plan.window = static_cast<std::size_t>(std::clamp<std::uint64_t>(pieces, 1, plan.window));
  plan.threads = std::min(plan.threads, plan.window);
  plan.pinned_bytes = plan.window * plan.places * rounded(plan.chunk) + spare;
  return plan;
}

std::string human_bytes(double value) {
  constexpr std::array units{"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  std::size_t unit = 0;
  for (; value >= 1024 && unit + 1 < units.size(); ++unit) value /= 1024;
  return fmt::format("{:.4g} {}", value, units[unit]);
}

}  // namespace stream_file
