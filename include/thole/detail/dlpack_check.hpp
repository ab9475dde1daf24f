#pragma once

// Defined in: dlpack.cpp

// The untyped half of <thole/dlpack.hpp>: whether shapes fit, and what is wrong with tensors.

#include <cstddef>
#include <cstdint>

#include <gsl/span>

#include <thole/error.hpp>
#include <thole/export.hpp>

namespace thole::inline v0_1::detail {

/// A tensor, whatever header it is from.
struct DlpackView {
  void* data;
  int device_type;
  std::int32_t dimensions;
  unsigned code;
  unsigned bits;
  unsigned lanes;
  const std::int64_t* shape;
  const std::int64_t* strides;  // nullptr: without gaps
  std::uint64_t byte_offset;
};

/// What the caller needs, and what it knows.
struct DlpackWanted {
  unsigned code;
  unsigned bits;
  unsigned lanes;
  std::size_t alignment;
  bool writable;
  bool known_pinned;
  std::uint32_t major = 1;
  bool is_read_only = false;  // as far as the tensor can say so
};

struct DlpackElements {
  void* data;
  std::size_t elements;
};

/// Whether a tensor of that shape lies within so many elements; empty strides: and has just as many, without gaps.
THOLE_EXPORT Result<void> check_dlpack_shape(std::size_t elements, gsl::span<const std::int64_t> shape,
                                             gsl::span<const std::int64_t> strides) noexcept;
/// Writes the shape, and behind it the strides, to 2 * shape.size() places. The shape is one that fits.
THOLE_EXPORT void fill_dlpack_places(std::int64_t* places, gsl::span<const std::int64_t> shape,
                                     gsl::span<const std::int64_t> strides) noexcept;
/// The elements of a tensor that is what is wanted.
THOLE_EXPORT Result<DlpackElements> check_dlpack_tensor(const DlpackView& tensor, const DlpackWanted& wanted) noexcept;
THOLE_EXPORT Error dlpack_unmarked() noexcept;
THOLE_EXPORT Error dlpack_no_memory() noexcept;

}  // namespace thole::inline v0_1::detail
