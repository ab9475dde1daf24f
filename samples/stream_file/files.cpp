#include "files.hpp"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

namespace stream_file {
namespace {

constexpr std::size_t most_at_once = std::size_t{1} << 30;  // Linux moves at most 2 GiB in one call

[[noreturn]] void fail(const char* what, const std::string& path) {
  throw std::system_error(errno, std::generic_category(), fmt::format("cannot {} {}", what, path));
}

int open_or_fail(const std::string& path, int flags, const char* what) {
  const int descriptor = ::open(path.c_str(), flags | O_CLOEXEC, 0666);
  if (descriptor < 0) fail(what, path);
  return descriptor;
}

}  // namespace

Descriptor::~Descriptor() { close(); }

bool Descriptor::close() noexcept {
  const int descriptor = std::exchange(value_, -1);
  return descriptor < 0 || ::close(descriptor) == 0;
}

InputFile::InputFile(const std::string& path)
    : path_(path == "-" ? "standard input" : path),
      descriptor_(path == "-" ? ::dup(STDIN_FILENO) : open_or_fail(path, O_RDONLY, "open")) {
  struct stat about {};
  if (::fstat(descriptor_.get(), &about) != 0) fail("open", path_);
  if (S_ISDIR(about.st_mode)) {
    errno = EISDIR;
    fail("read", path_);
  }
  if (S_ISREG(about.st_mode)) {
    size_ = static_cast<std::uint64_t>(about.st_size);
    ::posix_fadvise(descriptor_.get(), 0, 0, POSIX_FADV_SEQUENTIAL);
  }
}

std::size_t InputFile::read(gsl::span<unsigned char> into) {
  std::size_t done = 0;
  while (done < into.size()) {
    const ssize_t got = ::read(descriptor_.get(), into.data() + done, std::min(into.size() - done, most_at_once));
    if (got == 0) break;
    if (got < 0 && errno != EINTR) fail("read", path_);
    if (got > 0) done += static_cast<std::size_t>(got);
  }
  return done;
}

bool InputFile::rewind() noexcept { return ::lseek(descriptor_.get(), 0, SEEK_SET) == 0; }

bool InputFile::is_same_file(const std::string& path) const noexcept {
  struct stat ours {
  }, other{};
  return ::stat(path.c_str(), &other) == 0 && S_ISREG(other.st_mode) && ::fstat(descriptor_.get(), &ours) == 0 &&
         ours.st_dev == other.st_dev && ours.st_ino == other.st_ino;
}

OutputFile::OutputFile(const std::string& path)
    : path_(path), descriptor_(open_or_fail(path, O_WRONLY | O_CREAT | O_TRUNC, "create")) {}

void OutputFile::write(Bytes bytes) {
  while (!bytes.empty()) {
    const ssize_t put = ::write(descriptor_.get(), bytes.data(), std::min(bytes.size(), most_at_once));
    if (put < 0 && errno != EINTR) fail("write", path_);
    if (put > 0) bytes = bytes.subspan(static_cast<std::size_t>(put));
  }
}

void OutputFile::close() {
  if (!descriptor_.close()) fail("write", path_);
}

}  // namespace stream_file
