#include "progress.hpp"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace stream_file {

Progress::Progress(std::optional<std::uint64_t> total) : total_(total), on_terminal_(::isatty(STDERR_FILENO) == 1) {}

Progress::~Progress() {
  if (drawn_) std::fputs("\r\033[K", stderr);
}

void Progress::show(std::uint64_t bytes) {
  const auto now = Clock::now();
  if (!on_terminal_ || now < next_) return;
  next_ = now + std::chrono::milliseconds(100);
  drawn_ = true;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const double speed = seconds > 0 ? static_cast<double>(bytes) / seconds / 1e9 : 0;
  if (total_ && *total_ > 0) {
    constexpr int width = 40;
    const double part = std::min(1.0, static_cast<double>(bytes) / static_cast<double>(*total_));
    const int full = static_cast<int>(part * width);
    fmt::print(stderr, "\r[{:#<{}}{:<{}}] {:3.0f} %  {:.2f} GB/s\033[K", "", full, "", width - full, part * 100, speed);
  } else {
    fmt::print(stderr, "\r{:.0f} MB  {:.2f} GB/s\033[K", static_cast<double>(bytes) / 1e6, speed);
  }
  std::fflush(stderr);
}

}  // namespace stream_file
