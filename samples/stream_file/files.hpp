#pragma once

#include <sys/types.h>

#include <cstdint>
#include <gsl/span>
#include <optional>
#include <string>
#include <thole/borrow.hpp>

#include "checks.hpp"

namespace stream_file {

/// An open file descriptor, closed at the end.
class Descriptor {
 public:
  explicit Descriptor(int value) noexcept : value_(value) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor();
  int get() const noexcept { return value_; }
  /// Closes now. False, with errno set, where the system could not keep what was written.
  bool close() noexcept;

 private:
  int value_;
};

/// The file that is streamed. Every failure is a `std::system_error` that names the file.
class InputFile {
 public:
  /// "-" is standard input.
  explicit InputFile(const std::string& path);
  /// Fills the span as far as the file goes: fewer bytes than asked for only at its end.
  std::size_t read(gsl::span<unsigned char> into);
  std::size_t read(const thole::BorrowMut<unsigned char>& into) { return read(into.span()); }
  /// Back to the start. False for what cannot go back, such as a pipe.
  bool rewind() noexcept;
  /// The size in bytes; none for pipes and devices.
  std::optional<std::uint64_t> size() const noexcept { return size_; }
  const std::string& path() const noexcept { return path_; }
  /// Whether the path names this very file, so that writing there would destroy what is still to be read.
  bool is_same_file(const std::string& path) const noexcept;

 private:
  std::string path_;
  Descriptor descriptor_;
  std::optional<std::uint64_t> size_;
};

/// The file that gets what came back. Every failure is a `std::system_error` that names the file.
class OutputFile {
 public:
  explicit OutputFile(const std::string& path);
  void write(Bytes bytes);
  /// Ends the file; some systems say only here that the disk is full.
  void close();

 private:
  std::string path_;
  Descriptor descriptor_;
};

}  // namespace stream_file
