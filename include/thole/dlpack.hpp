#pragma once

// Borrows as DLPack tensors, which NumPy, PyTorch, CuPy, JAX and others take without a copy; and theirs as memory for
// thole. No header of DLPack's is needed: where the program has one, its own types go in and come out all the same.
//
//     auto tensor = thole::to_dlpack(buf.borrow(), {.device = thole::DlpackDevice::cuda_host});
//     give_to_python(tensor.release());  // whoever takes it calls its deleter, which ends the borrow

#include <array>
#include <complex>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

#include <gsl/span>

#include <thole/borrow.hpp>
#include <thole/detail/dlpack_check.hpp>
#include <thole/error.hpp>

namespace thole::inline v0_1 {

/// What DLPack passes around, as version 1.0 has it: the same members in the same places as in its own header, where
/// the names begin with DL.
namespace dlpack {

/// Where the memory is: `DlpackDevice`, or another number of DLPack's.
struct Device {
  std::int32_t device_type = 0;  ///< 1: memory of the CPU; 3: of the CPU, pinned for CUDA.
  std::int32_t device_id = 0;    ///< 0 for both.
};
/// The type of an element.
struct DataType {
  std::uint8_t code = 0;    ///< As DlpackType says.
  std::uint8_t bits = 0;    ///< Of a lane.
  std::uint16_t lanes = 0;  ///< 1, but for types that are vectors.
};
/// A view of memory.
struct Tensor {
  void* data = nullptr;             ///< The first element, but for byte_offset.
  Device device;                    ///< Where it is.
  std::int32_t ndim = 0;            ///< Dimensions.
  DataType dtype;                   ///< Of the elements.
  std::int64_t* shape = nullptr;    ///< Elements in each dimension.
  std::int64_t* strides = nullptr;  ///< Elements from one to the next, in each; nullptr: without gaps, the last is 1.
  std::uint64_t byte_offset = 0;    ///< From data to the first element.
};
/// A tensor with who owns it. It cannot say that it may only be read.
struct ManagedTensor {
  Tensor dl_tensor;                           ///< The view.
  void* manager_ctx = nullptr;                ///< The owner's.
  void (*deleter)(ManagedTensor*) = nullptr;  ///< To be called once, by whoever has the tensor in the end.
};
/// Of DLPack.
struct Version {
  std::uint32_t major = 0;  ///< Others cannot be understood.
  std::uint32_t minor = 0;  ///< Others can.
};
/// A tensor with who owns it, since DLPack 1.0.
struct ManagedTensorVersioned {
  Version version;                                     ///< What it is made as.
  void* manager_ctx = nullptr;                         ///< The owner's.
  void (*deleter)(ManagedTensorVersioned*) = nullptr;  ///< To be called once, by whoever has the tensor in the end.
  std::uint64_t flags = 0;                             ///< `read_only`, and others.
  Tensor dl_tensor;                                    ///< The view.
};
/// In `ManagedTensorVersioned::flags`: nobody may write the elements.
inline constexpr std::uint64_t read_only = 1;

}  // namespace dlpack

/// What a tensor says of where its memory is. It is the same memory: consumers differ in what they accept.
enum class DlpackDevice : std::int32_t {
  cpu = 1,        ///< kDLCPU: what PyTorch and CuPy want.
  cuda_host = 3,  ///< kDLCUDAHost: pinned memory. NumPy, JAX and Triton take it, too.
};

/// What DLPack calls elements of type T. Programs may specialise it for types of theirs, as
/// `template <> struct thole::DlpackType<__half> : thole::DlpackTypeIs<2, 16> {};`
template <class T>
struct DlpackType;
/// Code (0: signed, 1: unsigned, 2: floating point, 4: bfloat16, 5: complex, 6: bool; more in DLPack's header), bits
/// of a lane, lanes.
template <int Code, int Bits, int Lanes = 1>
struct DlpackTypeIs {
  /// As a tensor has it.
  static constexpr dlpack::DataType value{Code, Bits, Lanes};
};
/// Integers.
template <class T>
requires std::is_integral_v<T>
struct DlpackType<T> : DlpackTypeIs<std::is_signed_v<T> ? 0 : 1, 8 * sizeof(T)> {
};
/// One byte each.
template <>
struct DlpackType<bool> : DlpackTypeIs<6, 8> {};
/// Numbers of 8 bits.
template <>
struct DlpackType<std::byte> : DlpackTypeIs<1, 8> {};
/// IEEE's.
template <>
struct DlpackType<float> : DlpackTypeIs<2, 32> {};
/// IEEE's.
template <>
struct DlpackType<double> : DlpackTypeIs<2, 64> {};
/// Two numbers in one element.
template <class T>
struct DlpackType<std::complex<T>> : DlpackTypeIs<5, 16 * sizeof(T)> {};

/// How a borrow is shown. Thread safety: plain data; what the spans view lives until the call returns.
struct DlpackOptions {
  /// Where the tensor says that the memory is.
  DlpackDevice device = DlpackDevice::cpu;
  /// Elements in each dimension, all of the borrow's together, or some of them with `strides`; empty: one dimension.
  gsl::span<const std::int64_t> shape = {};
  /// Elements from one to the next in each dimension, not negative; empty: without gaps, the last dimension is 1.
  gsl::span<const std::int64_t> strides = {};
  /// A tensor without a version cannot say that it may only be read. True: make one of a `Borrow` all the same, for
  /// somebody who is known not to write.
  bool unmarked = false;
};

/// Calls a tensor's own deleter.
struct DlpackDeleter {
  /// At most once for each tensor.
  template <class Managed>
  void operator()(Managed* tensor) const noexcept {
    if (tensor->deleter != nullptr) tensor->deleter(tensor);
  }
};
/// Owns a tensor until somebody takes it by `release()`.
template <class Managed = dlpack::ManagedTensorVersioned>
using DlpackTensor = std::unique_ptr<Managed, DlpackDeleter>;

namespace detail {

template <class Managed>
concept VersionedDlpack = requires(Managed& managed) {
  managed.version.major;
  managed.flags;
};

/// A tensor as this library's own, which may have another header's types.
template <class Tensor>
DlpackView view_of(const Tensor& tensor) noexcept {
  return {tensor.data,       static_cast<int>(tensor.device.device_type),
          tensor.ndim,       tensor.dtype.code,
          tensor.dtype.bits, tensor.dtype.lanes,
          tensor.shape,      tensor.strides,
          tensor.byte_offset};
}

/// A tensor, and all that it points to.
template <class Managed, class SomeBorrow>
struct DlpackExport {
  Managed managed{};
  SomeBorrow borrow;
  std::unique_ptr<std::int64_t[]> places;  // the shape, then the strides

  static void end(Managed* managed) noexcept { delete static_cast<DlpackExport*>(managed->manager_ctx); }
};

}  // namespace detail

/// A tensor of the elements of a `Borrow`, which may only be read, or of a `BorrowMut`. It holds the borrow, whatever
/// becomes of the buffer: until its deleter is called, on any thread, a conflicting borrow or use of the buffer is
/// `Errc::borrowed`. DLPack orders nothing: who takes the tensor to a device enqueues copies that thole does not see,
/// and calls the deleter when they are done. Nothing is copied, and it does not wait.
///
/// `Managed` is `dlpack::ManagedTensorVersioned`, `dlpack::ManagedTensor`, or the same of DLPack's own header.
/// Consumers may want more than the 64 bytes that buffers are aligned to: `HeapOptions::alignment`.
///
/// Throws `Error`, and the borrow stays the caller's: `invalid_argument` where shape or strides do not fit into the
/// borrow, or a `Managed` without a version shall show a `Borrow` (see `DlpackOptions::unmarked`), `out_of_memory`.
///
/// Thread safety: needs exclusive access to the borrow.
template <class Managed = dlpack::ManagedTensorVersioned, class T>
[[nodiscard]] Result<DlpackTensor<Managed>> try_to_dlpack(detail::BasicBorrow<T>&& borrow,
                                                          const DlpackOptions& options = {}) noexcept {
  constexpr bool versioned = detail::VersionedDlpack<Managed>;
  constexpr dlpack::DataType type = DlpackType<std::remove_const_t<T>>::value;
  static_assert(type.bits * type.lanes == 8 * sizeof(T), "what DlpackType<T> says is not as large as a T");
  if (!versioned && std::is_const_v<T> && !options.unmarked) return tl::unexpected(detail::dlpack_unmarked());
  const std::int64_t all[] = {static_cast<std::int64_t>(borrow.size())};
  const gsl::span<const std::int64_t> shape =
      options.shape.empty() ? gsl::span<const std::int64_t>(all) : options.shape;
  if (auto fits = detail::check_dlpack_shape(borrow.size(), shape, options.strides); !fits)
    return tl::unexpected(std::move(fits.error()));
  using Export = detail::DlpackExport<Managed, detail::BasicBorrow<T>>;
  std::unique_ptr<std::int64_t[]> places(new (std::nothrow) std::int64_t[2 * shape.size()]);
  std::unique_ptr<Export> made(places != nullptr ? new (std::nothrow) Export() : nullptr);
  if (made == nullptr) return tl::unexpected(detail::dlpack_no_memory());
  detail::fill_dlpack_places(places.get(), shape, options.strides);

  Managed& managed = made->managed;
  auto& tensor = managed.dl_tensor;
  tensor.data = const_cast<std::remove_const_t<T>*>(borrow.data());
  tensor.device.device_type = static_cast<decltype(tensor.device.device_type)>(options.device);
  tensor.device.device_id = 0;
  tensor.ndim = static_cast<std::int32_t>(shape.size());
  tensor.dtype.code = type.code;
  tensor.dtype.bits = type.bits;
  tensor.dtype.lanes = type.lanes;
  tensor.shape = places.get();
  tensor.strides = places.get() + shape.size();
  if constexpr (versioned) {
    managed.version.major = 1;
    managed.flags = std::is_const_v<T> ? dlpack::read_only : 0;
  }
  managed.manager_ctx = made.get();
  managed.deleter = &Export::end;
  made->places = std::move(places);
  made->borrow = std::move(borrow);
  return DlpackTensor<Managed>(&made.release()->managed);
}
/// As `try_to_dlpack`, but throws.
template <class Managed = dlpack::ManagedTensorVersioned, class T>
[[nodiscard]] DlpackTensor<Managed> to_dlpack(detail::BasicBorrow<T>&& borrow, const DlpackOptions& options = {}) {
  return detail::unwrap(try_to_dlpack<Managed>(std::move(borrow), options));
}

/// What is known of a tensor that comes from elsewhere. Thread safety: plain data.
struct DlpackImport {
  /// The program knows that the memory is pinned, though the tensor says kDLCPU, as PyTorch's pinned tensors do.
  bool pinned = false;
};

/// The elements of a tensor that somebody else has made, if thole can work with them where they are: pinned memory of
/// the CPU, without gaps, with elements of this type; a tensor that may only be read has `const T`. Nothing is taken
/// over: the tensor must outlive what is done with the span. Works for DLPack's own types, too. Does not wait. Returns
/// `Errc::invalid_argument` with the reason otherwise.
///
/// Thread safety: as reading the tensor.
template <class T, class Managed>
[[nodiscard]] Result<gsl::span<T>> check_dlpack(const Managed& managed, const DlpackImport& known = {}) noexcept {
  constexpr dlpack::DataType type = DlpackType<std::remove_const_t<T>>::value;
  static_assert(type.bits * type.lanes == 8 * sizeof(T), "what DlpackType<T> says is not as large as a T");
  detail::DlpackWanted wanted{type.code, type.bits, type.lanes, alignof(T), !std::is_const_v<T>, known.pinned};
  if constexpr (detail::VersionedDlpack<Managed>) {
    wanted.major = static_cast<std::uint32_t>(managed.version.major);
    wanted.is_read_only = (managed.flags & dlpack::read_only) != 0;
  }
  auto checked = detail::check_dlpack_tensor(detail::view_of(managed.dl_tensor), wanted);
  if (!checked) return tl::unexpected(std::move(checked.error()));
  return gsl::span<T>(static_cast<T*>(checked->data), checked->elements);
}

/// Makes a buffer of a tensor that somebody else has made, with whatever makes buffers of memory that is there:
/// `make(gsl::span<T>, std::function<void()> release)`, which returns it and calls `release` once when nothing uses the
/// memory any more; that calls the tensor's deleter. Returns what `make` returns. Throws `Error` with
/// `Errc::invalid_argument` as `check_dlpack`, and what `make` throws; the tensor stays the caller's then, and where
/// `make` returns a `Result` without a value, so that it must not have kept `release`. Blocks as `make` does.
///
/// Thread safety: needs exclusive access to the tensor.
template <class T, class Managed, class Make>
std::invoke_result_t<Make, gsl::span<T>, std::function<void()>> from_dlpack(DlpackTensor<Managed>&& tensor, Make&& make,
                                                                            const DlpackImport& known = {}) {
  const gsl::span<T> elements = detail::unwrap(check_dlpack<T>(*tensor, known));
  Managed* const managed = tensor.get();
  auto made =
      std::invoke(std::forward<Make>(make), elements, std::function<void()>([managed] { DlpackDeleter()(managed); }));
  if constexpr (requires { made.error(); })
    if (!made.has_value()) return made;
  (void)tensor.release();
  return made;
}

}  // namespace thole::inline v0_1
