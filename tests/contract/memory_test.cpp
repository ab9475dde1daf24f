// Pinned host memory and device memory.

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "backend/simulated/backend.hpp"
#include "contract.hpp"

using namespace contract;

namespace {

constexpr std::size_t bytes = std::size_t{1} << 20;

}  // namespace

CONTRACT_CASE("memory can be pinned, let go and pinned again") {
  const Pages pages(bytes);
  for (int round = 0; round < 3; ++round) {
    CONTRACT_OK(backend, register_host(pages.data(), bytes));
    CONTRACT_OK(backend, unregister_host(pages.data()));
  }
}

CONTRACT_CASE("memory that is pinned already is refused, whole or in part [13]") {
  const Pages pages(4 * Pages::page);
  CONTRACT_OK(backend, register_host(pages.data(), 2 * Pages::page));
  CONTRACT_CODE(backend, register_host(pages.data(), 2 * Pages::page), invalid);
  CONTRACT_CODE(backend, register_host(pages.data() + Pages::page, 2 * Pages::page), invalid);
  CONTRACT_OK(backend, register_host(pages.data() + 2 * Pages::page, 2 * Pages::page));
  CONTRACT_OK(backend, unregister_host(pages.data()));
  CONTRACT_OK(backend, unregister_host(pages.data() + 2 * Pages::page));
}

CONTRACT_CASE("unpinning what is not pinned is refused [15]") {
  const Pages pages(Pages::page);
  CONTRACT_CODE(backend, unregister_host(pages.data()), invalid);
}

CONTRACT_CASE("pinned memory from the driver can be written, copied and freed [17]") {
  void* data = nullptr;
  CONTRACT_OK(backend, allocate_host(bytes, &data));
  REQUIRE(data != nullptr);
  std::memset(data, 7, bytes);
  const Pinned back(backend, bytes);
  {
    const TestStream stream(backend);
    const OnDevice device(backend, bytes, stream);
    CONTRACT_OK(backend, copy(device.data(), data, bytes, CopyKind::host_to_device, stream));
    CONTRACT_OK(backend, copy(back.data(), device.data(), bytes, CopyKind::device_to_host, stream));
    stream.synchronize();
  }
  CHECK(back.holds(7));
  CONTRACT_OK(backend, free_host(data));
}

CONTRACT_CASE("an allocation that cannot be met says out_of_memory and leaves its result alone [1]") {
  const TestStream stream(backend);
  int mark = 0;
  void* data = &mark;
  CONTRACT_CODE(backend, allocate_device(std::size_t{1} << 50, stream, &data), out_of_memory);
  CHECK(data == &mark);
  const OnDevice small(backend, bytes, stream);  // and the next one that fits succeeds
  CHECK(small.data() != nullptr);
}

CONTRACT_CASE("no bytes of memory are refused, and leave the result alone [76]") {
  const TestStream stream(backend);
  int mark = 0;
  void* data = &mark;
  CONTRACT_CODE(backend, allocate_device(0, stream, &data), invalid);
  CONTRACT_CODE(backend, allocate_host(0, &data), invalid);
  CHECK(data == &mark);
}

CONTRACT_CASE("device memory that is freed is not freed again, by whatever stream, nor is what is none [77]") {
  const TestStream stream(backend), other(backend);
  const Pinned host(backend, bytes);
  void* data = nullptr;
  CONTRACT_OK(backend, allocate_device(bytes, stream, &data));
  CONTRACT_OK(backend, free_device(data, stream));
  CONTRACT_CODE(backend, free_device(data, stream), invalid);
  stream.synchronize();
  CONTRACT_CODE(backend, free_device(data, stream), invalid);
  CONTRACT_CODE(backend, free_device(data, other), invalid);
  CONTRACT_CODE(backend, free_device(host.data(), stream), invalid);
  const OnDevice next(backend, bytes, other);  // and the memory serves others
  const Pinned back(backend, bytes);
  host.fill(6);
  CONTRACT_OK(backend, copy(next.data(), host.data(), bytes, CopyKind::host_to_device, other));
  CONTRACT_OK(backend, copy(back.data(), next.data(), bytes, CopyKind::device_to_host, other));
  other.synchronize();
  CHECK(back.holds(6));
}

CONTRACT_CASE("the CPU can neither read nor write device memory [20]") {
  const TestStream stream(backend);
  const OnDevice device(backend, bytes, stream);
  stream.synchronize();
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  for (const std::size_t at : {std::size_t{0}, bytes / 2, bytes - 1}) {
    CHECK(write(ends[1], device.data() + at, 1) == -1);  // the system reads it for us, and does not crash
    CHECK(errno == EFAULT);
    CHECK(write(ends[1], "x", 1) == 1);
    CHECK(read(ends[0], device.data() + at, 1) == -1);
    CHECK(errno == EFAULT);
    char byte = 0;
    CHECK(read(ends[0], &byte, 1) == 1);
  }
  close(ends[0]);
  close(ends[1]);
}

CONTRACT_CASE("device memory freed in a stream can be allocated again in it without waiting [19]") {
  const TestStream stream(backend);
  const Pinned back(backend, bytes);
  for (unsigned char round = 1; round <= 20; ++round) {
    const Pinned source(backend, bytes);
    source.fill(round);
    {
      const OnDevice device(backend, bytes, stream);
      CONTRACT_OK(backend, copy(device.data(), source.data(), bytes, CopyKind::host_to_device, stream));
      CONTRACT_OK(backend, copy(back.data(), device.data(), bytes, CopyKind::device_to_host, stream));
    }
    stream.synchronize();
    CHECK(back.holds(round));
  }
}

CONTRACT_CASE("memory need not be whole pages to be pinned, but all of it must be there and be writable [12]") {
  const Pages pages(2 * Pages::page);
  CONTRACT_OK(backend, register_host(pages.data() + 100, 17));
  CONTRACT_OK(backend, unregister_host(pages.data() + 100));
  void* const mapped = mmap(nullptr, 3 * Pages::page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(mapped != MAP_FAILED);
  auto* const first = static_cast<unsigned char*>(mapped);
  CONTRACT_OK(backend, register_host(first, 3 * Pages::page));
  CONTRACT_OK(backend, unregister_host(first));
  REQUIRE(mprotect(first + Pages::page, Pages::page, PROT_READ) == 0);
  CONTRACT_CODE(backend, register_host(first, 3 * Pages::page), invalid);
  CONTRACT_CODE(backend, register_host(first + Pages::page, Pages::page), invalid);
  REQUIRE(munmap(first + Pages::page, Pages::page) == 0);
  CONTRACT_CODE(backend, register_host(first, 3 * Pages::page), invalid);
  CONTRACT_CODE(backend, register_host(first + Pages::page, Pages::page), invalid);
  CONTRACT_OK(backend, register_host(first, Pages::page));
  CONTRACT_OK(backend, unregister_host(first));
  REQUIRE(munmap(first, 3 * Pages::page) == 0);
}

CONTRACT_CASE("memory that can only be read can be pinned for reading, and copied to the device [64]") {
  const TestStream stream(backend);
  const Pinned back(backend, bytes);
  const Pages pages(bytes);
  pages.fill(9);
  REQUIRE(mprotect(pages.data(), bytes, PROT_READ) == 0);
  CONTRACT_CODE(backend, register_host(pages.data(), bytes), invalid);
  CONTRACT_OK(backend, register_host(pages.data(), bytes, HostAccess::read_only));
  CONTRACT_CODE(backend, register_host(pages.data(), bytes, HostAccess::read_only), invalid);
  {
    const OnDevice device(backend, bytes, stream);
    CONTRACT_OK(backend, copy(device.data(), pages.data(), bytes, CopyKind::host_to_device, stream));
    CONTRACT_OK(backend, copy(back.data(), device.data(), bytes, CopyKind::device_to_host, stream));
    stream.synchronize();
  }
  CHECK(back.holds(9));
  CONTRACT_OK(backend, unregister_host(pages.data()));
  REQUIRE(mprotect(pages.data(), bytes, PROT_NONE) == 0);
  CONTRACT_CODE(backend, register_host(pages.data(), bytes, HostAccess::read_only), invalid);
  REQUIRE(mprotect(pages.data(), bytes, PROT_READ | PROT_WRITE) == 0);
}

TEST_CASE("a simulated device refuses to write what is pinned for reading only") {
  thole::detail::SimulatedBackend backend({.stepped = true});
  const Pages pages(bytes);
  CONTRACT_OK(backend, register_host(pages.data(), bytes, HostAccess::read_only));
  StreamHandle stream = nullptr;
  void* device = nullptr;
  CONTRACT_OK(backend, create_stream(&stream));
  CONTRACT_OK(backend, allocate_device(bytes, stream, &device));
  CONTRACT_OK(backend, copy(device, pages.data(), bytes, CopyKind::host_to_device, stream));
  const Status status = backend.copy(pages.data(), device, bytes, CopyKind::device_to_host, stream);
  CHECK(status.code == StatusCode::invalid);
  CHECK(backend.describe(status).find("would write host memory that is read-only") != std::string::npos);
  CONTRACT_OK(backend, free_device(device, stream));
  backend.run_all();
  CONTRACT_OK(backend, destroy_stream(stream));
  CONTRACT_OK(backend, unregister_host(pages.data()));
}

TEST_CASE("a simulated device that watches registrations notices pages that are replaced under one") {
  thole::SimulationOptions options;
  options.stepped = true;
  options.watch_registrations = true;
  for (const bool replaced : {false, true}) {
    CAPTURE(replaced);
    thole::detail::SimulatedBackend backend(options);
    void* const mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(mapped != MAP_FAILED);
    CONTRACT_OK(backend, register_host(mapped, bytes));
    StreamHandle stream = nullptr;
    void* device = nullptr;
    CONTRACT_OK(backend, create_stream(&stream));
    CONTRACT_OK(backend, allocate_device(bytes, stream, &device));
    if (replaced) {
      void* const middle = static_cast<unsigned char*>(mapped) + bytes / 2;
      REQUIRE(mmap(middle, Pages::page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
              middle);
      *static_cast<unsigned char*>(middle) = 1;
    }
    CONTRACT_OK(backend, copy(device, mapped, bytes, CopyKind::host_to_device, stream));
    backend.run_all();
    const Status status = backend.free_device(device, stream);
    CHECK(status.code == (replaced ? StatusCode::device_lost : StatusCode::ok));
    if (replaced) CHECK(backend.describe(status).find("other pages than were pinned") != std::string::npos);
    backend.run_all();
    (void)backend.destroy_stream(stream);
    (void)backend.unregister_host(mapped);
    REQUIRE(munmap(mapped, bytes) == 0);
  }
}
