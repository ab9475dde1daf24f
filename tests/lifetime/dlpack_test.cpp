// Borrows as DLPack tensors, and tensors as memory for thole. Tensors from elsewhere are looked at without a device.

#if __has_include(<dlpack/dlpack.h>)
#include <dlpack/dlpack.h>
#endif

#include <array>
#include <complex>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <thread>

#include <thole/dlpack.hpp>

#include "../support/allocations.hpp"
#include "../support/rig.hpp"
#include "../support/sanitized.hpp"

using namespace support;

namespace {

using Places = std::array<std::int64_t, 2>;

template <class F>
void refuses(F&& f, std::string_view words) {
  try {
    f();
    FAIL_CHECK("nothing is refused where it should say: ", words);
  } catch (const Error& error) {
    CHECK(error.errc() == Errc::invalid_argument);
    CHECK_MESSAGE(std::string_view(error.what()).find(words) != std::string_view::npos, error.what());
  }
}

/// A tensor as other code makes it, of pinned memory and of 2 x 3 floats.
struct Foreign {
  Foreign() {
    managed.version = {1, 1};
    managed.manager_ctx = this;
    managed.deleter = [](dlpack::ManagedTensorVersioned* self) { ++static_cast<Foreign*>(self->manager_ctx)->deleted; };
    managed.dl_tensor.data = data.data();
    managed.dl_tensor.device = {3, 0};
    managed.dl_tensor.ndim = 2;
    managed.dl_tensor.dtype = {2, 32, 1};
    managed.dl_tensor.shape = shape.data();
    managed.dl_tensor.strides = strides.data();
  }
  std::array<float, 6> data{0, 1, 2, 3, 4, 5};
  Places shape{2, 3};
  Places strides{3, 1};
  dlpack::ManagedTensorVersioned managed;
  int deleted = 0;
};

}  // namespace

#if __has_include(<dlpack/dlpack.h>)
static_assert(sizeof(dlpack::Tensor) == sizeof(DLTensor));
static_assert(sizeof(dlpack::ManagedTensor) == sizeof(DLManagedTensor));
static_assert(offsetof(dlpack::Tensor, device) == offsetof(DLTensor, device));
static_assert(offsetof(dlpack::Tensor, ndim) == offsetof(DLTensor, ndim));
static_assert(offsetof(dlpack::Tensor, dtype) == offsetof(DLTensor, dtype));
static_assert(offsetof(dlpack::Tensor, shape) == offsetof(DLTensor, shape));
static_assert(offsetof(dlpack::Tensor, strides) == offsetof(DLTensor, strides));
static_assert(offsetof(dlpack::Tensor, byte_offset) == offsetof(DLTensor, byte_offset));
static_assert(offsetof(dlpack::ManagedTensor, manager_ctx) == offsetof(DLManagedTensor, manager_ctx));
static_assert(offsetof(dlpack::ManagedTensor, deleter) == offsetof(DLManagedTensor, deleter));
static_assert(static_cast<int>(DlpackDevice::cpu) == kDLCPU);
static_assert(static_cast<int>(DlpackDevice::cuda_host) == kDLCUDAHost);
static_assert(DlpackType<float>::value.code == kDLFloat);
static_assert(DlpackType<std::complex<float>>::value.code == kDLComplex);

TEST_CASE("a borrow is shown as the DLManagedTensor of a header of DLPack's own") {
  const Rig rig(under_test());
  auto buffer = rig.heap.make_buffer<float>(6, 1.5F);
  auto tensor = to_dlpack<DLManagedTensor>(buffer.borrow_mut(), {.device = DlpackDevice::cuda_host});
  CHECK(tensor->dl_tensor.device.device_type == kDLCUDAHost);
  CHECK(static_cast<float*>(tensor->dl_tensor.data)[5] == 1.5F);
  CHECK(check_dlpack<float>(*tensor)->size() == 6);
}
#endif
// As version 1.0 says, on every machine that CUDA runs on.
static_assert(sizeof(dlpack::ManagedTensorVersioned) == 80);
static_assert(offsetof(dlpack::ManagedTensorVersioned, manager_ctx) == 8);
static_assert(offsetof(dlpack::ManagedTensorVersioned, deleter) == 16);
static_assert(offsetof(dlpack::ManagedTensorVersioned, flags) == 24);
static_assert(offsetof(dlpack::ManagedTensorVersioned, dl_tensor) == 32);

TEST_CASE("a tensor holds its borrow, whatever becomes of the buffer, until its deleter is called on any thread") {
  const Rig rig(under_test());
  DlpackTensor<> tensor;
  {
    const auto buffer = rig.heap.make_buffer<float>(100, 7.0F);
    tensor = to_dlpack(buffer.borrow());
  }
  CHECK(rig.heap.stats().in_use > 0);
  CHECK(static_cast<const float*>(tensor->dl_tensor.data)[99] == 7.0F);
  std::thread([tensor = std::move(tensor)]() mutable { tensor.reset(); }).join();
  CHECK(rig.heap.stats().in_use == 0);
  CHECK(rig.all_free());
}

TEST_CASE("while a tensor lives, what its borrow forbids is refused") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  const DeviceBuffer<float> there(stream, 8);
  auto buffer = rig.heap.make_buffer<float>(8, 0.0F);
  auto read = to_dlpack(buffer.borrow());
  CHECK(buffer.try_borrow_mut().error().errc() == Errc::borrowed);
  CHECK(buffer.try_async_from_device(stream, there.span()).error().errc() == Errc::borrowed);
  CHECK(buffer.try_borrow().has_value());
  read.reset();
  const auto write = to_dlpack(buffer.borrow_mut());
  CHECK(buffer.try_borrow().error().errc() == Errc::borrowed);
  CHECK(buffer.try_async_to_device(stream).error().errc() == Errc::borrowed);
}

TEST_CASE("a tensor of a Borrow says that it may only be read, one of a BorrowMut does not") {
  const Rig rig(under_test());
  auto buffer = rig.heap.make_buffer<float>(8, 0.0F);
  CHECK(to_dlpack(buffer.borrow())->flags == dlpack::read_only);
  CHECK(to_dlpack(buffer.borrow_mut())->flags == 0);
  CHECK(to_dlpack(buffer.borrow())->version.major == 1);
}

TEST_CASE("a Borrow is shown without a version only where the program says that nobody writes") {
  const Rig rig(under_test());
  auto buffer = rig.heap.make_buffer<float>(8, 3.0F);
  auto borrow = buffer.borrow();
  refuses([&] { (void)to_dlpack<dlpack::ManagedTensor>(std::move(borrow)); }, "DlpackOptions::unmarked");
  CHECK(borrow[7] == 3.0F);  // it has stayed here
  CHECK(to_dlpack<dlpack::ManagedTensor>(std::move(borrow), {.unmarked = true}) != nullptr);
  CHECK(to_dlpack<dlpack::ManagedTensor>(buffer.borrow_mut()) != nullptr);
}

TEST_CASE("a tensor has one dimension, or those that are asked for, and always strides") {
  const Rig rig(under_test());
  const auto buffer = rig.heap.make_buffer<std::int16_t>(12, std::int16_t{1});
  const auto line = to_dlpack(buffer.borrow());
  CHECK(line->dl_tensor.ndim == 1);
  CHECK(line->dl_tensor.shape[0] == 12);
  CHECK(line->dl_tensor.strides[0] == 1);
  CHECK(line->dl_tensor.device.device_type == 1);
  const Places shape{3, 4};
  const auto rows = to_dlpack(buffer.borrow(), {.device = DlpackDevice::cuda_host, .shape = shape});
  CHECK(rows->dl_tensor.ndim == 2);
  CHECK(rows->dl_tensor.shape[1] == 4);
  CHECK(rows->dl_tensor.strides[0] == 4);
  CHECK(rows->dl_tensor.strides[1] == 1);
  CHECK(rows->dl_tensor.device.device_type == 3);
  const Places columns{1, 4};
  const auto turned = to_dlpack(buffer.borrow(), {.shape = Places{4, 3}, .strides = columns});
  CHECK(turned->dl_tensor.strides[1] == 4);
  CHECK(to_dlpack(buffer.borrow(), {.shape = Places{0, 4}, .strides = Places{400, 1}}) != nullptr);
  const PinnedBuffer<float> none;
  CHECK(to_dlpack(none.borrow(), {.shape = Places{0, 4}, .strides = Places{4, 1}}) != nullptr);
  const auto nothing = to_dlpack(none.borrow());
  CHECK(nothing->dl_tensor.shape[0] == 0);
  CHECK(to_dlpack(none.borrow(), {.shape = std::array<std::int64_t, 3>{0, INT64_MAX, INT64_MAX}}) != nullptr);
  CHECK(to_dlpack(none.borrow(), {.shape = std::array<std::int64_t, 3>{INT64_MAX, INT64_MAX, 0}}) != nullptr);
}

TEST_CASE("a tensor is made as version 1.0 says, with the type of its elements, and starts where they do") {
  const Rig rig(under_test());
  auto numbers = rig.heap.make_buffer<std::complex<double>>(2, std::complex<double>(1, 2));
  const auto pairs = to_dlpack(numbers.borrow_mut());
  CHECK(pairs->version.major == 1);
  CHECK(pairs->version.minor == 0);
  CHECK(pairs->dl_tensor.dtype.code == 5);
  CHECK(pairs->dl_tensor.dtype.bits == 128);
  CHECK(pairs->dl_tensor.dtype.lanes == 1);
  CHECK(pairs->dl_tensor.byte_offset == 0);
  CHECK(pairs->dl_tensor.device.device_id == 0);
  const auto bytes = rig.heap.make_buffer<std::byte>(2, std::byte{7});
  const auto borrow = bytes.borrow();
  const auto shown = to_dlpack(bytes.borrow());
  CHECK(shown->dl_tensor.dtype.code == 1);
  CHECK(shown->dl_tensor.dtype.bits == 8);
  CHECK(shown->dl_tensor.data == borrow.data());
}

TEST_CASE("a shape that does not fit into the borrow is refused, and the borrow stays the caller's") {
  const Rig rig(under_test());
  const auto buffer = rig.heap.make_buffer<float>(12, 2.0F);
  auto borrow = buffer.borrow();
  const auto show = [&](Places shape) { return [&, shape] { (void)to_dlpack(std::move(borrow), {.shape = shape}); }; };
  refuses(show({3, 5}), "a shape of {3, 5} has 15 elements, and the borrow 12");
  refuses(show({3, 3}), "has 9 elements, and the borrow 12");
  refuses(show({-3, -4}), "{-3, -4} is no number of elements");
  refuses(show({INT64_MAX, INT64_MAX}), "no number of elements");
  const auto strided = [&](Places shape, Places strides) {
    return [&, shape, strides] { (void)to_dlpack(std::move(borrow), {.shape = shape, .strides = strides}); };
  };
  refuses(strided({3, 4}, {5, 1}), "does not lie within the borrow's 12 elements");
  refuses(strided({3, 4}, {-4, 1}), "does not lie within");
  refuses(strided({3, 4}, {INT64_MAX, 1}), "does not lie within");
  refuses(strided({3, 4}, {3, 2}), "does not lie within");                      // by one
  refuses(strided({1, 4}, {-4, 1}), "does not lie within");                     // negative, though it leads nowhere
  refuses(strided({5, 2}, {std::int64_t{1} << 62, 1}), "does not lie within");  // as far as a size can say, and back
  const std::int64_t one[] = {1};
  refuses([&] { (void)to_dlpack(std::move(borrow), {.shape = Places{3, 4}, .strides = one}); }, "does not lie within");
  CHECK(borrow[11] == 2.0F);
}

#if !THOLE_TEST_SANITIZED
TEST_CASE("a tensor for which the system has no memory is an error, and the borrow stays the caller's") {
  const Rig rig(under_test());
  const auto buffer = rig.heap.make_buffer<float>(12, 2.0F);
  auto borrow = buffer.borrow();
  for (const std::size_t but_for : {std::size_t{0}, std::size_t{1}}) {  // for the shape, for the tensor
    std::optional<Result<DlpackTensor<>>> made;
    {
      const NoMemory no_memory(but_for);
      made.emplace(try_to_dlpack(std::move(borrow)));
    }
    REQUIRE(!made->has_value());
    CHECK(made->error().errc() == Errc::out_of_memory);
    CHECK(borrow[11] == 2.0F);
  }
}
#endif

TEST_CASE("elements have the types that DLPack gives them") {
  const auto is = [](dlpack::DataType type, int code, int bits) {
    return type.code == code && type.bits == bits && type.lanes == 1;
  };
  CHECK(is(DlpackType<std::int8_t>::value, 0, 8));
  CHECK(is(DlpackType<std::int64_t>::value, 0, 64));
  CHECK(is(DlpackType<std::uint32_t>::value, 1, 32));
  CHECK(is(DlpackType<std::byte>::value, 1, 8));
  CHECK(is(DlpackType<float>::value, 2, 32));
  CHECK(is(DlpackType<double>::value, 2, 64));
  CHECK(is(DlpackType<std::complex<double>>::value, 5, 128));
  CHECK(is(DlpackType<bool>::value, 6, 8));
}

TEST_CASE("a tensor from elsewhere is memory for thole where it is pinned, without gaps and of the type") {
  Foreign foreign;
  const auto elements = check_dlpack<float>(foreign.managed).value();
  CHECK(elements.data() == foreign.data.data());
  CHECK(elements.size() == 6);
  foreign.managed.dl_tensor.strides = nullptr;
  foreign.managed.dl_tensor.byte_offset = 4;
  foreign.shape = {1, 5};
  CHECK(check_dlpack<const float>(foreign.managed).value().data() == foreign.data.data() + 1);
  foreign.managed.dl_tensor.device.device_type = 1;
  CHECK(check_dlpack<float>(foreign.managed, {.pinned = true}).value().size() == 5);
  foreign.shape = {1, 3};  // one row: how far the next would be says nothing
  foreign.strides = {99, 1};
  foreign.managed.dl_tensor.strides = foreign.strides.data();
  CHECK(check_dlpack<float>(foreign.managed, {.pinned = true}).value().size() == 3);
  foreign.shape = {0, 3};
  foreign.managed.dl_tensor.data = nullptr;
  CHECK(check_dlpack<float>(foreign.managed, {.pinned = true}).value().empty());
  foreign.strides = {7, 5};  // nor do the places of no elements
  foreign.managed.dl_tensor.byte_offset = 2;
  CHECK(check_dlpack<float>(foreign.managed, {.pinned = true}).value().empty());
}

TEST_CASE("a tensor from elsewhere without dimensions is one element") {
  Foreign foreign;
  foreign.managed.dl_tensor.ndim = 0;
  foreign.managed.dl_tensor.shape = nullptr;
  foreign.managed.dl_tensor.strides = nullptr;
  CHECK(check_dlpack<float>(foreign.managed).value().size() == 1);
}

TEST_CASE("a tensor that thole cannot use where it is says why not") {
  const auto wrong = [](std::string_view words, const std::function<void(Foreign&)>& change) {
    Foreign foreign;
    change(foreign);
    refuses([&] { (void)detail::unwrap(check_dlpack<float>(foreign.managed)); }, words);
  };
  wrong("not known to be pinned", [](Foreign& f) { f.managed.dl_tensor.device.device_type = 1; });
  wrong("a CUDA device's", [](Foreign& f) { f.managed.dl_tensor.device.device_type = 2; });
  wrong("a CUDA device's", [](Foreign& f) { f.managed.dl_tensor.device.device_type = 13; });
  wrong("another kind of device's, 10", [](Foreign& f) { f.managed.dl_tensor.device.device_type = 10; });
  wrong("its elements are float64 and not float32", [](Foreign& f) { f.managed.dl_tensor.dtype.bits = 64; });
  wrong("its elements are int32 and", [](Foreign& f) { f.managed.dl_tensor.dtype.code = 0; });
  wrong("its elements are code 7, bits 32 and", [](Foreign& f) { f.managed.dl_tensor.dtype.code = 7; });
  wrong("float32 x 4 and", [](Foreign& f) { f.managed.dl_tensor.dtype.lanes = 4; });
  wrong("do not stand one behind the other: a shape of {2, 3} with strides of {1, 2}", [](Foreign& f) {
    f.strides = {1, 2};
  });
  wrong("do not stand one behind the other", [](Foreign& f) { f.strides = {4, 1}; });
  wrong("no number of elements", [](Foreign& f) { f.shape = {-1, 3}; });
  wrong("no number of elements", [](Foreign& f) { f.shape = {0, -3}; });
  wrong("no number of elements", [](Foreign& f) {
    f.shape = {INT64_MAX, 1};  // a number, but of floats no number of bytes
    f.strides = {1, 1};
  });
  wrong("no number of elements", [](Foreign& f) {
    f.shape = {INT64_MAX / 2, 3};
    f.strides = {3, 1};
  });
  wrong("2 dimensions without a shape", [](Foreign& f) { f.managed.dl_tensor.shape = nullptr; });
  wrong("-1 dimensions without a shape", [](Foreign& f) { f.managed.dl_tensor.ndim = -1; });
  wrong("6 elements at nullptr", [](Foreign& f) { f.managed.dl_tensor.data = nullptr; });
  wrong("a multiple of 4 bytes", [](Foreign& f) { f.managed.dl_tensor.byte_offset = 2; });
  wrong("may only be read: ask for const elements", [](Foreign& f) { f.managed.flags = dlpack::read_only; });
  wrong("version 2 of DLPack", [](Foreign& f) { f.managed.version.major = 2; });
  wrong("version 0 of DLPack", [](Foreign& f) { f.managed.version.major = 0; });
  Foreign bytes;  // more of them than memory can be addressed by, and fewer than a size can say
  bytes.managed.dl_tensor.dtype = {0, 8, 1};
  bytes.managed.dl_tensor.strides = nullptr;
  bytes.shape = {INT64_MAX, 2};
  refuses([&] { (void)detail::unwrap(check_dlpack<std::int8_t>(bytes.managed)); }, "no number of elements");
}

TEST_CASE("a tensor from elsewhere ends before the end of the address space does") {
  Foreign foreign;
  auto& tensor = foreign.managed.dl_tensor;
  const auto beyond = [&] {
    refuses([&] { (void)detail::unwrap(check_dlpack<float>(foreign.managed)); }, "end of the address space");
  };
  foreign.shape = {1, (std::int64_t{1} << 62) - 1};  // 4 bytes fewer than there are addresses
  foreign.strides = {1, 1};
  beyond();
  tensor.strides = nullptr;
  beyond();
  foreign.shape = {2, 3};
  tensor.byte_offset = UINT64_MAX - 3;  // 4 bytes before the data, if it went around
  beyond();
  tensor.byte_offset = UINT64_MAX - reinterpret_cast<std::uintptr_t>(foreign.data.data()) - 23;  // its end would be 0
  beyond();
  tensor.byte_offset -= 4;
  CHECK(check_dlpack<float>(foreign.managed).value().size() == 6);
  foreign.strides = {-3, 1};  // backwards, and not by going around
  tensor.byte_offset = 0;
  tensor.strides = foreign.strides.data();
  refuses([&] { (void)detail::unwrap(check_dlpack<float>(foreign.managed)); }, "with strides of {-3, 1}");
  foreign.shape = {2, (std::int64_t{1} << 61) - 1};
  foreign.strides = {(std::int64_t{1} << 61) - 1, 1};
  beyond();
}

TEST_CASE("a tensor that may only be read gives const elements") {
  Foreign foreign;
  foreign.managed.flags = dlpack::read_only;
  CHECK(check_dlpack<const float>(foreign.managed).value().size() == 6);
}

TEST_CASE("a flag other than read_only says nothing, and a tensor may have no deleter") {
  Foreign foreign;
  foreign.managed.flags = 2;  // it is a copy
  foreign.managed.deleter = nullptr;
  DlpackTensor<> tensor(&foreign.managed);
  CHECK(check_dlpack<float>(*tensor).value().size() == 6);
  tensor.reset();
  CHECK(foreign.deleted == 0);
}

TEST_CASE("whatever makes a buffer of a tensor gets its elements, and calls its deleter once in the end") {
  Foreign foreign;
  std::function<void()> later;
  const auto sum = from_dlpack<float>(DlpackTensor<>(&foreign.managed),
                                      [&](gsl::span<float> elements, std::function<void()> release) {
                                        later = std::move(release);
                                        return elements[0] + elements[5];
                                      });
  CHECK(sum == 5.0F);
  CHECK(foreign.deleted == 0);
  later();
  CHECK(foreign.deleted == 1);
}

TEST_CASE("a buffer is made of a tensor that does not say that it is pinned where the program knows it") {
  Foreign foreign;
  foreign.managed.dl_tensor.device.device_type = 1;
  DlpackTensor<> tensor(&foreign.managed);
  const auto size = [](gsl::span<float> elements, const std::function<void()>& release) {
    release();
    return elements.size();
  };
  refuses([&] { (void)from_dlpack<float>(std::move(tensor), size); }, "not known to be pinned");
  CHECK(from_dlpack<float>(std::move(tensor), size, {.pinned = true}) == 6);
  CHECK(foreign.deleted == 1);
}

TEST_CASE("a tensor of which no buffer is made stays the caller's") {
  Foreign foreign;
  DlpackTensor<> tensor(&foreign.managed);
  const auto make = [](gsl::span<float>, const std::function<void()>&) -> int { throw Error(Errc::limit, "no more"); };
  CHECK_THROWS_AS((from_dlpack<float>(std::move(tensor), make)), Error);
  CHECK(tensor != nullptr);
  const auto try_make = [](gsl::span<float>, const std::function<void()>&) -> Result<int> {
    return tl::unexpected(Error(Errc::limit, "no more"));
  };
  CHECK(!from_dlpack<float>(std::move(tensor), try_make));
  CHECK(tensor != nullptr);
  refuses([&] { from_dlpack<int>(std::move(tensor), [](gsl::span<int>, const std::function<void()>&) { return 0; }); },
          "not int32");
  CHECK(foreign.deleted == 0);
  tensor.reset();
  CHECK(foreign.deleted == 1);
}
