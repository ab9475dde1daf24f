// Pinned memory as kernels find it.

#include "backend/simulated/backend.hpp"
#include "contract.hpp"

using namespace contract;
using thole::detail::SimulatedBackend;

namespace {

constexpr std::size_t bytes = 4 * Pages::page;

/// A copy to the device and back by the device's own addresses, of all but the first bytes.
void copy_by_own_addresses(DeviceBackend& backend) {
  constexpr std::size_t from = 100;
  const Pinned source(backend, bytes);
  const Pinned back(backend, bytes);
  const TestStream stream(backend);
  const OnDevice device(backend, bytes, stream);
  source.fill(7);
  const void* read = nullptr;
  const void* written = nullptr;
  CONTRACT_OK(backend, device_address(source.data() + from, &read));
  CONTRACT_OK(backend, device_address(back.data() + from, &written));
  CONTRACT_OK(backend, copy(device.data(), read, bytes - from, CopyKind::host_to_device, stream));
  CONTRACT_OK(backend, copy(const_cast<void*>(written), device.data(), bytes - from, CopyKind::device_to_host, stream));
  stream.synchronize();
  CHECK(back.data()[from - 1] == 0);
  CHECK(back.data()[from] == 7);
  CHECK(back.data()[bytes - 1] == 7);
}

}  // namespace

CONTRACT_CASE("copies take the address at which the device finds pinned memory, too [63]") {
  copy_by_own_addresses(backend);
}

TEST_CASE("a simulated device may find pinned memory at addresses of its own") {
  SimulatedBackend backend({.own_addresses = true});
  const Pinned memory(backend, bytes);
  const void* found = nullptr;
  CONTRACT_OK(backend, device_address(memory.data() + 5, &found));
  CHECK(found != memory.data() + 5);
  CHECK(reinterpret_cast<std::uintptr_t>(found) % 64 == reinterpret_cast<std::uintptr_t>(memory.data() + 5) % 64);
  copy_by_own_addresses(backend);
  const Pages pageable(bytes);
  CONTRACT_CODE(backend, device_address(pageable.data(), &found), invalid);
}

TEST_CASE("a kernel is given pinned memory by the device's own address") {
  SimulatedBackend backend({.own_addresses = true});
  const Pinned memory(backend, bytes);
  const TestStream stream(backend);
  memory.fill(1);
  const void* found = nullptr;
  CONTRACT_OK(backend, device_address(memory.data(), &found));
  const SimulatedBackend::KernelUse use{const_cast<void*>(found), bytes, true};
  const auto twice = [](void*, void* const* places) {
    auto* const data = static_cast<unsigned char*>(places[0]);
    for (std::size_t i = 0; i != bytes; ++i) data[i] = static_cast<unsigned char>(2 * data[i]);
  };
  CONTRACT_OK(backend, launch_kernel(stream, &use, 1, twice, nullptr));
  stream.synchronize();
  CHECK(memory.holds(2));
}
