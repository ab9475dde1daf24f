#pragma once

#include <string>

namespace stream_file {

/// An open file descriptor, closed at the end; move-only.
class Descriptor {
 public:
  explicit Descriptor(int value = -1) noexcept : value_(value) {}
  Descriptor(Descriptor&& other) noexcept;
  Descriptor& operator=(Descriptor&& other) noexcept;
  ~Descriptor();
  /// Negative: none.
  int get() const noexcept { return value_; }
  /// Closes now. False, with errno set, where the system could not keep what was written.
  bool close() noexcept;

 private:
  int value_;
};

/// Throws `std::system_error` for errno: "cannot read FILE: ...".
[[noreturn]] void fail_on(const std::string& path, const char* what);

/// Whether the path names the very file that is open there.
bool is_same_file(const Descriptor& open, const std::string& path) noexcept;

}  // namespace stream_file
