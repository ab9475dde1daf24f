#pragma once

// What the job looks at to know that the bytes are right.

#include <array>
#include <cstddef>
#include <cstdint>
#include <gsl/span>
#include <string>

namespace stream_file {

using Bytes = gsl::span<const unsigned char>;
using Histogram = std::array<unsigned long long, 256>;

/// How much is checked. `sum`: the sum of piece_sum.hpp, made by the CPU of what it read and by the device of what it
/// got. `full`: the histogram of the byte values on both sides, too, and on a round trip the XXH3 hash of 128 bits of
/// each piece that was read and that came back.
enum class Check { none, sum, full };

/// Adds how often each value occurs.
void count_bytes(Bytes bytes, Histogram& counts);

/// The sum of bytes that stand at byte `position` of the job.
std::uint64_t piece_sum(Bytes bytes, std::uint64_t position) noexcept;

/// XXH3, 128 bits, seeded with where the piece stands in the job.
struct PieceHash {
  std::uint64_t high = 0, low = 0;
  PieceHash() = default;
  PieceHash(Bytes bytes, std::uint64_t position) noexcept;
  friend bool operator==(const PieceHash&, const PieceHash&) = default;
};

/// What one side found. Adding is commutative, so that any thread may add to its own and all are added up in the end.
struct Findings {
  std::uint64_t sum = 0;
  Histogram histogram{};
  PieceHash hashes;  ///< Of all pieces, each half added up.

  void look_at(Bytes bytes, std::uint64_t position, Check check);
  void add(const PieceHash& hash) noexcept;
  void add(const Findings& other) noexcept;
};

/// Throws `std::runtime_error` that says what differs, if anything does that was checked on both sides.
void verify(const Findings& cpu, const Findings& device, Check check);

/// 16 hexadecimal digits, or 32.
std::string as_text(std::uint64_t sum);
std::string as_text(const PieceHash& hash);

}  // namespace stream_file
