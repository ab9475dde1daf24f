#pragma once

// What a pass over the bytes measures and compares: checksums by xxhash, histograms by counting.

#include <array>
#include <cstddef>
#include <cstdint>
#include <gsl/span>
#include <memory>
#include <string>

struct XXH3_state_s;

namespace stream_file {

using Bytes = gsl::span<const unsigned char>;
using Histogram = std::array<unsigned long long, 256>;

/// Adds how often each value occurs.
void count_bytes(Bytes bytes, Histogram& counts);

/// A running XXH3 checksum of 128 bits, as `xxh128sum` prints it.
class Checksum {
 public:
  Checksum();
  void add(Bytes bytes);
  std::string text() const;

 private:
  struct Free {
    void operator()(XXH3_state_s* state) const noexcept;
  };
  std::unique_ptr<XXH3_state_s, Free> state_;
};

/// What one way of doing the job did and found.
struct Pass {
  std::uint64_t bytes = 0;
  std::uint64_t chunks = 0;
  std::uint64_t copies = 0;  ///< Between host and device, both ways.
  double seconds = 0;
  std::string checksum_read, checksum_back;
  Histogram on_cpu{}, on_device{};

  double gigabytes_per_second() const { return seconds > 0 ? static_cast<double>(bytes) / seconds / 1e9 : 0; }
  /// Throws `std::runtime_error` that says what differs, if anything does.
  void verify() const;
};

}  // namespace stream_file
