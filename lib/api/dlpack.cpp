#include <thole/detail/dlpack_check.hpp>

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <limits>
#include <string>
#include <utility>

namespace thole::inline v0_1::detail {
namespace {

std::string list(gsl::span<const std::int64_t> numbers) {
  std::string text = "{";
  for (const std::int64_t number : numbers) text += (text.size() == 1 ? "" : ", ") + std::to_string(number);
  return text + '}';
}

std::string type_name(unsigned code, unsigned bits, unsigned lanes) {
  static constexpr const char* kinds[] = {"int", "uint", "float", "opaque handle ", "bfloat", "complex", "bool"};
  std::string name = code < std::size(kinds) ? kinds[code] : "code " + std::to_string(code) + ", bits ";
  name += std::to_string(bits);
  return lanes == 1 ? name : name + " x " + std::to_string(lanes);
}

/// The product; false: it is no number of elements, or more than a size can say.
bool count(gsl::span<const std::int64_t> shape, std::size_t& elements) noexcept {
  elements = 1;
  bool none = false;
  for (const std::int64_t extent : shape) {
    if (extent < 0) return false;
    none = none || extent == 0;
  }
  if (none) elements = 0;
  for (const std::int64_t extent : shape)
    if (__builtin_mul_overflow(elements, static_cast<std::size_t>(extent), &elements)) return false;
  return elements <= static_cast<std::size_t>(std::numeric_limits<std::int64_t>::max());
}

/// Whether the elements of a tensor stand one behind the other, the last dimension's first. A dimension of one element
/// may have any stride.
bool without_gaps(const DlpackView& tensor) noexcept {
  if (tensor.strides == nullptr) return true;
  std::int64_t stride = 1;
  for (auto i = tensor.dimensions; i-- != 0; stride *= tensor.shape[i])
    if (tensor.shape[i] != 1 && tensor.strides[i] != stride) return false;
  return true;
}

/// What is wrong with a tensor, in words; empty: nothing. `elements` is how many it has.
std::string what_is_wrong(const DlpackView& tensor, const DlpackWanted& wanted, std::size_t& elements) {
  constexpr int cpu = 1, cuda = 2, cuda_host = 3, cuda_managed = 13;
  if (wanted.major != 1)
    return "it is made as version " + std::to_string(wanted.major) + " of DLPack, of which this knows version 1 alone";
  if (tensor.device_type == cuda || tensor.device_type == cuda_managed)
    return "its memory is a CUDA device's; see DeviceSpan::from_native";
  if (tensor.device_type != cpu && tensor.device_type != cuda_host)
    return "its memory is another kind of device's, " + std::to_string(tensor.device_type);
  if (tensor.device_type == cpu && !wanted.known_pinned)
    return "its memory is not known to be pinned (kDLCPU); see DlpackImport::pinned, or copy it into a PinnedBuffer";
  if (tensor.code != wanted.code || tensor.bits != wanted.bits || tensor.lanes != wanted.lanes)
    return "its elements are " + type_name(tensor.code, tensor.bits, tensor.lanes) + " and not " +
           type_name(wanted.code, wanted.bits, wanted.lanes);
  if (wanted.writable && wanted.is_read_only) return "it may only be read: ask for const elements";
  if (tensor.dimensions < 0 || (tensor.dimensions > 0 && tensor.shape == nullptr))
    return std::to_string(tensor.dimensions) + " dimensions without a shape";
  const gsl::span<const std::int64_t> shape(tensor.shape, static_cast<std::size_t>(tensor.dimensions));
  std::size_t bytes = 0;
  if (!count(shape, elements) || __builtin_mul_overflow(elements, std::size_t{wanted.bits} * wanted.lanes / 8, &bytes))
    return "a shape of " + list(shape) + " is no number of elements";
  if (elements == 0) return {};
  if (!without_gaps(tensor))
    return "its elements do not stand one behind the other: a shape of " + list(shape) + " with strides of " +
           list({tensor.strides, shape.size()});
  if (tensor.data == nullptr) return "it has " + std::to_string(elements) + " elements at nullptr";
  std::uintptr_t address = 0, end = 0;
  if (__builtin_add_overflow(reinterpret_cast<std::uintptr_t>(tensor.data), tensor.byte_offset, &address) ||
      __builtin_add_overflow(address, bytes, &end))
    return "its " + std::to_string(elements) + " elements, from a byte_offset of " +
           std::to_string(tensor.byte_offset) + " on, pass the end of the address space";
  if (address % wanted.alignment != 0)
    return "its elements do not start at a multiple of " + std::to_string(wanted.alignment) + " bytes";
  return {};
}

}  // namespace

Result<void> check_dlpack_shape(std::size_t elements, gsl::span<const std::int64_t> shape,
                                gsl::span<const std::int64_t> strides) noexcept {
  constexpr const char* call = "to_dlpack";
  std::size_t wanted = 0;
  if (!count(shape, wanted))
    return tl::unexpected(Error::make(Errc::invalid_argument, [&] {
      return std::string(call) + ": a shape of " + list(shape) + " is no number of elements";
    }));
  if (strides.empty()) {
    if (wanted == elements) return {};
    return tl::unexpected(Error::make(Errc::invalid_argument, [&] {
      return std::string(call) + ": a shape of " + list(shape) + " has " + std::to_string(wanted) +
             " elements, and the borrow " + std::to_string(elements);
    }));
  }
  // The last element that the strides lead to, counted as it goes so that nothing overflows.
  std::size_t last = 0;
  bool inside = strides.size() == shape.size();
  for (std::size_t i = 0; inside && wanted != 0 && i != shape.size(); ++i) {
    std::size_t way = 0;
    inside =
        strides[i] >= 0 &&
        !__builtin_mul_overflow(static_cast<std::size_t>(shape[i] - 1), static_cast<std::size_t>(strides[i]), &way) &&
        !__builtin_add_overflow(last, way, &last) && last < elements;
  }
  if (inside && (wanted == 0 || elements != 0)) return {};
  return tl::unexpected(Error::make(Errc::invalid_argument, [&] {
    return std::string(call) + ": a shape of " + list(shape) + " with strides of " + list(strides) +
           " does not lie within the borrow's " + std::to_string(elements) + " elements";
  }));
}

void fill_dlpack_places(std::int64_t* places, gsl::span<const std::int64_t> shape,
                        gsl::span<const std::int64_t> strides) noexcept {
  std::int64_t stride = 1;
  for (std::size_t i = shape.size(); i-- != 0;) {
    places[i] = shape[i];
    places[shape.size() + i] = strides.empty() ? stride : strides[i];
    (void)__builtin_mul_overflow(stride, shape[i], &stride);  // of no elements, it may be anything
  }
}

Result<DlpackElements> check_dlpack_tensor(const DlpackView& tensor, const DlpackWanted& wanted) noexcept {
  std::size_t elements = 0;
  bool good = false;
  Error error = Error::make(Errc::invalid_argument, [&] {
    const std::string wrong = what_is_wrong(tensor, wanted, elements);
    good = wrong.empty();
    return "check_dlpack: " + wrong;
  });
  if (!good) return tl::unexpected(std::move(error));
  if (elements == 0) return DlpackElements{nullptr, 0};
  return DlpackElements{static_cast<std::byte*>(tensor.data) + tensor.byte_offset, elements};
}

Error dlpack_unmarked() noexcept {
  return Error::make(Errc::invalid_argument, [] {
    return std::string(
        "to_dlpack: a tensor without a version cannot say that a Borrow may only be read; take a "
        "BorrowMut, dlpack::ManagedTensorVersioned, or DlpackOptions::unmarked");
  });
}

Error dlpack_no_memory() noexcept {
  return Error::make(Errc::out_of_memory,
                     [] { return std::string("to_dlpack: the system has no memory for a tensor"); });
}

}  // namespace thole::inline v0_1::detail
