// Kernels that read and write pinned memory themselves: they get the address at which the device finds it. A simulated
// device has addresses of its own, where a GPU of today has the CPU's.

#include <functional>

#include <thole/launch.hpp>

#include "../support/rig.hpp"

using namespace support;

namespace {

constexpr std::size_t count = 1000;

/// As a GPU that cannot use the host's addresses.
Device own_addresses() { return Device::simulated({.stepped = true, .own_addresses = true}); }

}  // namespace

TEST_CASE("the function of use_on is given the address at which the device finds each buffer") {
  const Rig rig(own_addresses());
  const Stream stream(rig.device);
  auto a = rig.heap.make_buffer<int>(count, 5), b = rig.heap.make_buffer<int>(count, 0);
  DeviceBuffer<int> memory(stream, count);
  const auto copies = [&](const int* from, int* through, int* to, NativeStream native) {
    CHECK(from != a.unsynchronized_data());
    CHECK(to != b.unsynchronized_data());
    CHECK(through == memory.span().native());
    REQUIRE(rig.backend().copy(through, from, count * sizeof(int), detail::CopyKind::host_to_device, native).ok());
    REQUIRE(rig.backend().copy(to, through, count * sizeof(int), detail::CopyKind::device_to_host, native).ok());
  };
  use_on(stream, reads(a), writes(memory), writes(b), copies);
  rig.sim().run_all();
  CHECK(b.borrow()[count - 1] == 5);
  a.use_on(stream, Access::device_reads,
           [&](const int* place, NativeStream) { CHECK(place != a.unsynchronized_data()); });
  CHECK(b.try_use_on(stream, Access::device_writes, [&](int* place, NativeStream) { return place; }).value() !=
        b.unsynchronized_data());
}

TEST_CASE("parts of a buffer are at the same distance for the device") {
  const Rig rig(own_addresses());
  const Stream stream(rig.device);
  auto [left, right] = rig.heap.make_buffer<int>(count).split_at(10);
  use_on(stream, reads(left), reads(right),
         [](const int* first, const int* second, NativeStream) { CHECK(second == first + 10); });
}

TEST_CASE("a kernel reads and writes pinned memory without a copy, on every device that the suite knows") {
  for (const Device& device : {stepped(), own_addresses()}) {
    const Rig rig(device);
    const Stream stream(rig.device), other(rig.device);
    auto a = rig.heap.make_buffer<int>(count, 20), b = rig.heap.make_buffer<int>(count, 1);
    auto sum = rig.heap.make_buffer<int>(count, 0);
    const auto add = [](gsl::span<const int> x, gsl::span<const int> y, gsl::span<int> z) {
      for (std::size_t i = 0; i != z.size(); ++i) z[i] = x[i] + 2 * y[i];
    };
    launch(
        stream, reads(a), reads(b), writes(sum), [](auto...) {}, add);
    CHECK(a.try_borrow().has_value());
    errc_text_of(a.try_borrow_mut(), Errc::in_flight);
    errc_text_of(sum.try_borrow(), Errc::in_flight);
    b = {};  // dropped in flight
    rig.sim().run_all();
    CHECK(sum.borrow()[count - 1] == 22);
    CHECK(rig.calls(SimulatedCall::copy) == 0);
  }
}

TEST_CASE("where a device refuses to say where it finds a buffer, the function does not run and nothing is used") {
  const Rig rig(own_addresses());
  const Stream stream(rig.device);
  auto a = rig.heap.make_buffer<int>(count), b = rig.heap.make_buffer<int>(count);
  bool ran = false;
  rig.sim().fail_call(SimulatedCall::device_address, 1);
  errc_text_of(a.try_use_on(stream, Access::device_writes, [&](int*, NativeStream) { ran = true; }),
               Errc::device_error);
  rig.sim().fail_call(SimulatedCall::device_address, 2);
  errc_text_of(try_use_on(stream, reads(a), writes(b), [&](const int*, int*, NativeStream) { ran = true; }),
               Errc::device_error);
  CHECK(!ran);
  CHECK(!a.busy());
  CHECK(!b.busy());
  CHECK(a.try_borrow_mut().has_value());
}

TEST_CASE("nothing of the device's addresses is left when arena and device are gone, however they went") {
  auto device = own_addresses();
  {
    const Rig rig(device);
    const Stream stream(rig.device);
    auto a = rig.heap.make_buffer<int>(count);
    a.use_on(stream, Access::device_writes, [](int*, NativeStream) {});
    rig.sim().run_all();
  }
  device.trim_pinned();
  CHECK(device.simulation().pinned_bytes() == 0);
  const Rig again(device);
  CHECK(again.all_free());
}
