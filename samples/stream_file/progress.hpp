#pragma once

#include <chrono>
#include <cstdint>
#include <optional>

namespace stream_file {

/// A bar on standard error, where that is a terminal; nothing anywhere else. Wiped when done.
class Progress {
 public:
  /// `total`: bytes, where they are known.
  explicit Progress(std::optional<std::uint64_t> total);
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress();
  /// Draws again.
  void show(std::uint64_t bytes);

 private:
  using Clock = std::chrono::steady_clock;
  std::optional<std::uint64_t> total_;
  bool on_terminal_;
  bool drawn_ = false;
  Clock::time_point start_ = Clock::now();
};

}  // namespace stream_file
