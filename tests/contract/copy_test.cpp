// Copies in stream order.

#include "contract.hpp"

using namespace contract;

namespace {

constexpr std::size_t bytes = std::size_t{1} << 20;

}  // namespace

CONTRACT_CASE("a copy goes each way and within each side") {
  const Pinned source(backend, bytes);
  const Pinned back(backend, bytes);
  const Pinned beside(backend, bytes);
  const TestStream stream(backend);
  const OnDevice first(backend, bytes, stream);
  const OnDevice second(backend, bytes, stream);
  source.fill(1);
  CONTRACT_OK(backend, copy(first.data(), source.data(), bytes, CopyKind::host_to_device, stream));
  CONTRACT_OK(backend, copy(second.data(), first.data(), bytes, CopyKind::device_to_device, stream));
  CONTRACT_OK(backend, copy(back.data(), second.data(), bytes, CopyKind::device_to_host, stream));
  CONTRACT_OK(backend, copy(beside.data(), back.data(), bytes, CopyKind::host_to_host, stream));
  stream.synchronize();
  CHECK(back.holds(1));
  CHECK(beside.holds(1));
}

CONTRACT_CASE("a copy of part of the memory leaves the rest alone") {
  const Pinned host(backend, bytes);
  const TestStream stream(backend);
  const OnDevice device(backend, bytes, stream);
  host.fill(1);
  CONTRACT_OK(backend, copy(device.data(), host.data(), bytes, CopyKind::host_to_device, stream));
  stream.synchronize();
  host.fill(2);
  CONTRACT_OK(backend, copy(host.data() + 10, device.data() + 20, 3, CopyKind::device_to_host, stream));
  stream.synchronize();
  CHECK(host.data()[9] == 2);
  CHECK(host.data()[10] == 1);
  CHECK(host.data()[12] == 1);
  CHECK(host.data()[13] == 2);
}

CONTRACT_CASE("a copy of no bytes succeeds") {
  const Pinned host(backend, Pages::page);
  const TestStream stream(backend);
  const OnDevice device(backend, bytes, stream);
  CONTRACT_OK(backend, copy(device.data(), host.data(), 0, CopyKind::host_to_device, stream));
  stream.synchronize();
}

CONTRACT_CASE("a copy from pinned memory returns before it is done and reads the source when its turn comes [39]") {
  const Pinned source(backend, bytes);
  const Pinned back(backend, bytes);
  const TestStream stream(backend);
  const OnDevice device(backend, bytes, stream);
  const TestEvent after(backend);
  source.fill(1);
  Gate gate(backend, stream);
  CONTRACT_OK(backend, copy(device.data(), source.data(), bytes, CopyKind::host_to_device, stream));
  CONTRACT_OK(backend, copy(back.data(), device.data(), bytes, CopyKind::device_to_host, stream));
  CONTRACT_OK(backend, record_event(after, stream));
  CONTRACT_CODE(backend, query_event(after), not_ready);
  CHECK(back.holds(0));
  source.fill(2);
  gate.open();
  stream.synchronize();
  CONTRACT_CODE(backend, query_event(after), ok);
  CHECK(back.holds(2));
}

CONTRACT_CASE("a pageable source may be reused as soon as the copy has returned [40]") {
  for (const std::size_t size : {std::size_t{64}, bytes}) {
    const Pages source((size + Pages::page - 1) / Pages::page * Pages::page);
    const Pinned back(backend, bytes);
    const TestStream stream(backend);
    const OnDevice device(backend, size, stream);
    source.fill(1);
    CONTRACT_OK(backend, copy(device.data(), source.data(), size, CopyKind::host_to_device, stream));
    source.fill(2);
    CONTRACT_OK(backend, copy(back.data(), device.data(), size, CopyKind::device_to_host, stream));
    stream.synchronize();
    CHECK(back.data()[0] == 1);
    CHECK(back.data()[size - 1] == 1);
  }
}

CONTRACT_CASE("a copy to pageable memory is done when it returns [41]") {
  const Pinned source(backend, bytes);
  const Pages back(bytes);
  const TestStream stream(backend);
  const OnDevice device(backend, bytes, stream);
  source.fill(3);
  CONTRACT_OK(backend, copy(device.data(), source.data(), bytes, CopyKind::host_to_device, stream));
  CONTRACT_OK(backend, copy(back.data(), device.data(), bytes, CopyKind::device_to_host, stream));
  CHECK(back.holds(3));
}

CONTRACT_CASE("a copy across the border of two registrations is refused, though they touch [42]") {
  const Pages pages(bytes);
  const std::size_t half = bytes / 2;
  CONTRACT_OK(backend, register_host(pages.data(), half));
  CONTRACT_OK(backend, register_host(pages.data() + half, half));
  {
    const TestStream stream(backend);
    const OnDevice device(backend, bytes, stream);
    const auto across = pages.data() + half - 64;
    CONTRACT_CODE(backend, copy(device.data(), across, 128, CopyKind::host_to_device, stream), invalid);
    CONTRACT_CODE(backend, copy(across, device.data(), 128, CopyKind::device_to_host, stream), invalid);
    CONTRACT_CODE(backend, copy(device.data(), across, 64, CopyKind::host_to_device, stream), ok);
    CONTRACT_CODE(backend, copy(device.data(), across + 64, 64, CopyKind::host_to_device, stream), ok);
    stream.synchronize();
  }
  CONTRACT_OK(backend, unregister_host(pages.data()));
  CONTRACT_OK(backend, unregister_host(pages.data() + half));
}

CONTRACT_CASE("a copy that would go beyond an allocation of device memory is refused, and the stream goes on [78]") {
  constexpr std::size_t beyond = std::size_t{64} << 20;  // more than a driver's pool gives in one piece
  const Pinned host(backend, beyond);
  const Pinned back(backend, bytes);
  const TestStream stream(backend);
  const OnDevice device(backend, bytes, stream);
  stream.synchronize();
  CONTRACT_CODE(backend, copy(device.data(), host.data(), beyond, CopyKind::host_to_device, stream), invalid);
  CONTRACT_CODE(backend, copy(host.data(), device.data(), beyond, CopyKind::device_to_host, stream), invalid);
  CONTRACT_CODE(backend, copy(nullptr, host.data(), bytes, CopyKind::host_to_device, stream), invalid);
  CONTRACT_CODE(backend, copy(host.data(), nullptr, bytes, CopyKind::device_to_host, stream), invalid);
  host.fill(4);
  CONTRACT_OK(backend, copy(device.data(), host.data(), bytes, CopyKind::host_to_device, stream));
  CONTRACT_OK(backend, copy(back.data(), device.data(), bytes, CopyKind::device_to_host, stream));
  stream.synchronize();
  CHECK(back.holds(4));
}
