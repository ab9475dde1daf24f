#include "output.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <memory>

namespace stream_file {
namespace {

constexpr std::size_t most_at_once = std::size_t{1} << 30;  // Linux moves at most 2 GiB in one call

/// Whether the path can get a new file. A link such as /dev/stdout names one that somebody else has open.
bool is_plain_or_new(const std::string& path) {
  struct stat about {};
  return ::lstat(path.c_str(), &about) != 0 || S_ISREG(about.st_mode);
}

/// The file behind a link of the user's own.
std::string behind_links(const std::string& path) {
  if (path.starts_with("/dev/") || path.starts_with("/proc/")) return path;
  const std::unique_ptr<char, void (*)(void*)> resolved(::realpath(path.c_str(), nullptr), std::free);
  return resolved != nullptr ? resolved.get() : path;
}

std::string part(const std::string& path) { return path + ".part"; }

}  // namespace

OutputFile::OutputFile(const std::string& path)
    : path_(behind_links(path)),
      plain_(is_plain_or_new(path_)),
      descriptor_(::open((plain_ ? part(path_) : path_).c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)) {
  if (descriptor_.get() < 0) fail_on(path_, "create");
  seekable_ = ::lseek(descriptor_.get(), 0, SEEK_CUR) >= 0;
}

OutputFile::~OutputFile() {
  if (plain_ && descriptor_.get() >= 0) ::unlink(part(path_).c_str());
}

void OutputFile::write(std::uint64_t position, Bytes bytes) {
  if (seekable_) return write_all(bytes, position);
  std::unique_lock lock(mutex_);
  turn_.wait(lock, [&] { return next_ == position || given_up_; });
  if (given_up_) return;
  write_all(bytes, position);
  next_ += bytes.size();
  turn_.notify_all();
}

void OutputFile::write_all(Bytes bytes, std::uint64_t position) {
  while (!bytes.empty()) {
    const std::size_t wanted = std::min(bytes.size(), most_at_once);
    const ssize_t put = seekable_ ? ::pwrite(descriptor_.get(), bytes.data(), wanted, static_cast<off_t>(position))
                                  : ::write(descriptor_.get(), bytes.data(), wanted);
    if (put < 0 && errno != EINTR) fail_on(path_, "write");
    if (put <= 0) continue;
    bytes = bytes.subspan(static_cast<std::size_t>(put));
    position += static_cast<std::uint64_t>(put);
  }
}

void OutputFile::give_up() noexcept {
  const std::lock_guard lock(mutex_);
  given_up_ = true;
  turn_.notify_all();
}

void OutputFile::finish() {
  const bool kept = descriptor_.close();
  if (kept && (!plain_ || std::rename(part(path_).c_str(), path_.c_str()) == 0)) return;
  const int why = errno;
  if (plain_) ::unlink(part(path_).c_str());
  errno = why;
  fail_on(path_, "write");
}

}  // namespace stream_file
