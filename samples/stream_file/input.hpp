#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <gsl/span>
#include <optional>
#include <string>

#include "descriptor.hpp"

namespace stream_file {

/// What addresses, offsets and lengths must be multiples of where the page cache is passed by (`--direct`).
constexpr std::size_t direct_alignment = 4096;

/// One file that is read. Every failure is a `std::system_error` or `std::runtime_error` that names the file.
///
/// Thread safety: const members may be called by many threads at once.
class InputFile {
 public:
  /// "-" is standard input. `direct`: past the page cache, where the file system can.
  InputFile(const std::string& path, bool direct);

  /// Bytes from where the file stood when it was opened to its end at that time; none for what has no size or no
  /// places: pipes, devices, files that the system makes up as they are read.
  std::optional<std::uint64_t> size() const noexcept { return size_; }
  /// Fills the span with what stands at `offset`, of a file with a size. Throws when the file ends before: it has been
  /// cut short since it was opened.
  void read_at(std::uint64_t offset, gsl::span<unsigned char> into) const;
  /// Of a file without a size: fills the span as far as the file goes. Fewer bytes than asked for: that was the end, or
  /// `stop` became true.
  std::size_t read_next(gsl::span<unsigned char> into, const std::atomic<bool>& stop) const;

  const std::string& path() const noexcept { return path_; }
  /// To be mapped or read by others; `offset()` is where the job's first byte stands.
  int descriptor() const noexcept { return plain_.get(); }
  std::uint64_t offset() const noexcept { return static_cast<std::uint64_t>(start_); }
  bool direct() const noexcept { return direct_.get() >= 0; }
  /// Whether a file with a size is longer now than when it was opened.
  bool has_grown() const noexcept;
  bool is(const std::string& path) const noexcept { return is_same_file(plain_, path); }

 private:
  [[noreturn]] void fail_cut_short() const;

  std::string path_;
  Descriptor plain_, direct_;
  std::optional<std::uint64_t> size_;
  std::int64_t start_ = 0;
};

}  // namespace stream_file
