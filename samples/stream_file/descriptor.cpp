#include "descriptor.hpp"

#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

namespace stream_file {

Descriptor::Descriptor(Descriptor&& other) noexcept : value_(std::exchange(other.value_, -1)) {}

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  std::swap(value_, other.value_);
  return *this;
}

Descriptor::~Descriptor() { close(); }

bool Descriptor::close() noexcept {
  const int descriptor = std::exchange(value_, -1);
  return descriptor < 0 || ::close(descriptor) == 0;
}

void fail_on(const std::string& path, const char* what) {
  throw std::system_error(errno, std::generic_category(), fmt::format("cannot {} {}", what, path));
}

bool is_same_file(const Descriptor& open, const std::string& path) noexcept {
  struct stat ours {
  }, other{};
  return ::stat(path.c_str(), &other) == 0 && S_ISREG(other.st_mode) && ::fstat(open.get(), &ours) == 0 &&
         ours.st_dev == other.st_dev && ours.st_ino == other.st_ino;
}

}  // namespace stream_file
