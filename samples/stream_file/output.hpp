#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>

#include "checks.hpp"
#include "descriptor.hpp"

namespace stream_file {

/// A file that is written by several threads and gets its name only when it is whole: until `finish()` it is PATH.part,
/// and removed if that never comes. What is no plain file (a device, a pipe) is written as it is. Every failure is a
/// `std::system_error` that names the file.
///
/// Thread safety: `write` and `give_up` may be called by many threads at once.
class OutputFile {
 public:
  explicit OutputFile(const std::string& path);
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;
  ~OutputFile();

  /// Writes to this place. Where there are no places, as in a pipe, waits until all before it is written.
  void write(std::uint64_t position, Bytes bytes);
  /// Lets writers go that wait for what will never be written.
  void give_up() noexcept;
  /// The end: some systems say only here that the disk is full.
  void finish();

 private:
  void write_all(Bytes bytes, std::uint64_t position);

  std::string path_;
  bool plain_ = true;  // a plain file
  Descriptor descriptor_;
  bool seekable_ = false;
  std::mutex mutex_;
  std::condition_variable turn_;
  std::uint64_t next_ = 0;  // where the next byte of a pipe belongs
  bool given_up_ = false;
};

}  // namespace stream_file
