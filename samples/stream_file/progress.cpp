#include "progress.hpp"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <string>

namespace stream_file {
namespace {

/// 3 s, 2:05, 1:02:03
std::string time_text(double seconds) {
  const auto whole = static_cast<std::uint64_t>(std::clamp(seconds, 0.0, 1e9) + 0.5);
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{}:{:02}", whole / 60, whole % 60);
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

}  // namespace

Progress::Progress(std::optional<std::uint64_t> total) : total_(total), on_terminal_(::isatty(STDERR_FILENO) == 1) {
  show(0);
}

Progress::~Progress() {
  if (drawn_) std::fputs("\r\033[K", stderr);
}

void Progress::show(std::uint64_t bytes) {
  if (!on_terminal_) return;
  drawn_ = true;
  const double seconds = std::chrono::duration<double>(Clock::now() - start_).count();
  const double speed = seconds > 0 ? static_cast<double>(bytes) / seconds : 0;
  if (total_ && *total_ > 0) {
    constexpr int width = 40;
    const double left = static_cast<double>(*total_) - static_cast<double>(std::min(bytes, *total_));
    const double part = 1 - left / static_cast<double>(*total_);
    const int full = static_cast<int>(part * width);
    fmt::print(stderr, "\r[{:#<{}}{:<{}}] {:3.0f} %  {:.2f} GB/s{}\033[K", "", full, "", width - full, part * 100,
               speed / 1e9, bytes > 0 ? fmt::format("  {} left", time_text(left / speed)) : "");
  } else {
    fmt::print(stderr, "\r{:.0f} MB  {:.2f} GB/s\033[K", static_cast<double>(bytes) / 1e6, speed / 1e9);
  }
  std::fflush(stderr);
}

}  // namespace stream_file
