#include "input.hpp"

#include <fcntl.h>
#include <fmt/core.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <stdexcept>

#include "interrupt.hpp"

namespace stream_file {
namespace {

constexpr std::size_t most_at_once = std::size_t{1} << 30;  // Linux moves at most 2 GiB in one call

/// Waits until there is something to read, or the other side is gone. False: `stop`. Looks for Ctrl-C meanwhile, which
/// may have come to another thread.
bool wait_for_input(int descriptor, const std::atomic<bool>& stop) {
  pollfd wanted{descriptor, POLLIN, 0};
  do {
    stop_if_interrupted();
    if (stop) return false;
  } while (::poll(&wanted, 1, 100) == 0);
  return true;
}

/// As much as there is, at most the span. `direct` gets the part of it that has the right shape.
std::size_t read_some_at(int plain, int direct, std::int64_t offset, gsl::span<unsigned char> into) {
  const std::size_t whole = into.size() / direct_alignment * direct_alignment;
  const bool aligned = static_cast<std::size_t>(offset) % direct_alignment == 0 &&
                       reinterpret_cast<std::uintptr_t>(into.data()) % direct_alignment == 0;
  if (direct >= 0 && aligned && whole > 0)
    return static_cast<std::size_t>(::pread(direct, into.data(), std::min(whole, most_at_once), offset));
  return static_cast<std::size_t>(::pread(plain, into.data(), std::min(into.size(), most_at_once), offset));
}

/// Open past the page cache; none where the file system cannot. Some say so only when they shall read.
Descriptor open_direct(const std::string& path) {
  Descriptor direct(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT));
  alignas(direct_alignment) unsigned char page[direct_alignment];
  if (direct.get() >= 0 && ::pread(direct.get(), page, sizeof page, 0) < 0) return Descriptor();
  return direct;
}

}  // namespace

InputFile::InputFile(const std::string& path, bool direct)
    : path_(path == "-" ? "standard input" : path),
      plain_(path == "-" ? ::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3) : ::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
  if (plain_.get() < 0) fail_on(path_, "open");
  struct stat about {};
  if (::fstat(plain_.get(), &about) != 0) fail_on(path_, "open");
  if (S_ISDIR(about.st_mode)) {
    errno = EISDIR;
    fail_on(path_, "read");
  }
  if (!S_ISREG(about.st_mode)) return;
  // What says 0 may still have bytes, as below /proc.
  if (char byte; about.st_size == 0 && ::pread(plain_.get(), &byte, 1, 0) != 0) return;
  start_ = std::max<std::int64_t>(::lseek(plain_.get(), 0, SEEK_CUR), 0);
  size_ = static_cast<std::uint64_t>(std::max<std::int64_t>(about.st_size - start_, 0));
  ::posix_fadvise(plain_.get(), 0, 0, POSIX_FADV_SEQUENTIAL);
  if (direct && path != "-") direct_ = open_direct(path);
}

void InputFile::read_at(std::uint64_t offset, gsl::span<unsigned char> into) const {
  for (std::size_t done = 0; done < into.size();) {
    const auto got = static_cast<ssize_t>(read_some_at(
        plain_.get(), direct_.get(), start_ + static_cast<std::int64_t>(offset + done), into.subspan(done)));
    if (got < 0 && errno != EINTR) fail_on(path_, "read");
    if (got == 0) fail_cut_short();
    if (got > 0) done += static_cast<std::size_t>(got);
  }
}

void InputFile::fail_cut_short() const {
  struct stat about {};
  if (::fstat(plain_.get(), &about) != 0) fail_on(path_, "read");
  throw std::runtime_error(fmt::format("{} was cut short while it was read: it had {} bytes, and has {} now", path_,
                                       *size_ + offset(), about.st_size));
}

std::size_t InputFile::read_next(gsl::span<unsigned char> into, const std::atomic<bool>& stop) const {
  std::size_t done = 0;
  while (done < into.size() && wait_for_input(plain_.get(), stop)) {
    const ssize_t got = ::read(plain_.get(), into.data() + done, std::min(into.size() - done, most_at_once));
    if (got == 0) break;
    if (got < 0 && errno != EINTR && errno != EAGAIN) fail_on(path_, "read");
    if (got > 0) done += static_cast<std::size_t>(got);
  }
  return done;
}

bool InputFile::has_grown() const noexcept {
  struct stat about {};
  return size_ && ::fstat(plain_.get(), &about) == 0 && about.st_size - start_ > static_cast<std::int64_t>(*size_);
}

}  // namespace stream_file
