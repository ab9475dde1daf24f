// What work on the simulated device meets: exceptions, queues without an end, pages that were replaced. None of it can
// be asked of CUDA: it has no such options, and ends the process, or says nothing, where these are noticed.

#include <sys/mman.h>

#include <chrono>
#include <deque>
#include <exception>
#include <memory>
#include <stdexcept>

#include "../support/child.hpp"
#include "backend/simulated/backend.hpp"
#include "contract.hpp"

using namespace contract;
using thole::SimulationOptions;
using thole::detail::SimulatedBackend;

namespace {

constexpr int ended_by_terminate = 77;

/// What becomes of a child whose device gets work by `give(backend, stream)` that throws.
template <class Give>
int child_with(const SimulationOptions& options, Give give) {
  return support::in_child([&] {
    std::set_terminate([] { _exit(ended_by_terminate); });
    SimulatedBackend backend(options);
    StreamHandle stream = nullptr;
    if (!backend.create_stream(&stream).ok() || !give(backend, stream).ok()) return 1;
    try {
      backend.run_all();
    } catch (...) {
      _exit(2);  // what it has left behind may not end
    }
    static_cast<void>(backend.synchronize_stream(stream));
    return 3;
  });
}

}  // namespace

TEST_CASE("an exception that leaves a host function or a kernel ends the process, also where a device is stepped") {
  const auto host_function = [](SimulatedBackend& backend, StreamHandle stream) {
    return backend.launch_host_function(
        stream, [](void*) { throw std::runtime_error("left a host function"); }, nullptr);
  };
  const auto kernel = [](SimulatedBackend& backend, StreamHandle stream) {
    return backend.launch_kernel(
        stream, nullptr, 0, [](void*, void* const*) { throw std::runtime_error("left a kernel"); }, nullptr);
  };
  CHECK(child_with({.stepped = true}, host_function) == ended_by_terminate);
  CHECK(child_with({.stepped = true}, kernel) == ended_by_terminate);
#if !THOLE_TEST_SANITIZED  // TSan lets a child have no threads
  CHECK(child_with({.stepped = false}, kernel) == ended_by_terminate);
#endif
}

TEST_CASE(
    "in late mode operations that nobody asks for hold no stream that somebody waits for, however many they are") {
  Count count;
  {
    SimulatedBackend backend({.late = std::chrono::hours(24 * 365)});
    std::deque<TestStream> late;
    for (int i = 0; i != 80; ++i)
      CONTRACT_OK(backend, launch_host_function(late.emplace_back(backend), &Count::add, &count));
    const TestStream wanted(backend);
    Count ran;
    CONTRACT_OK(backend, launch_host_function(wanted, &Count::add, &ran));
    wanted.synchronize();
    CHECK(ran.value() == 1);
    CHECK(count.value() == 0);
  }
  CHECK(count.value() == 80);
}

TEST_CASE("a queue limit of 0 gives endless queues, also on a device that runs by itself") {
  constexpr int many = 5'000;
  SimulatedBackend backend({.queue_limit = 0});
  const TestStream stream(backend);
  Count count;
  backend.hold(stream);
  for (int i = 0; i != many; ++i) CONTRACT_OK(backend, launch_host_function(stream, &Count::add, &count));
  CHECK(backend.pending(stream) == many);
  backend.release(stream);
  stream.synchronize();
  CHECK(count.value() == many);
}

TEST_CASE("a simulated device that watches registrations notices replaced pages in a kernel, by whatever address") {
  constexpr std::size_t bytes = 4 * Pages::page;
  const auto nothing = [](void*, void* const*) {};
  for (const bool own_addresses : {false, true})
    for (const bool replaced : {false, true}) {
      CAPTURE(own_addresses);
      CAPTURE(replaced);
      SimulatedBackend backend({.stepped = true, .watch_registrations = true, .own_addresses = own_addresses});
      void* const data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      REQUIRE(data != MAP_FAILED);
      CONTRACT_OK(backend, register_host(data, bytes));
      const void* place = nullptr;
      CONTRACT_OK(backend, device_address(data, &place));
      CHECK((place != data) == own_addresses);
      StreamHandle stream = nullptr;
      CONTRACT_OK(backend, create_stream(&stream));
      const SimulatedBackend::KernelUse use{const_cast<void*>(place), bytes, false};
      CONTRACT_OK(backend, launch_kernel(stream, &use, 1, nothing, nullptr));
      if (replaced) {
        void* const last = static_cast<unsigned char*>(data) + bytes - Pages::page;
        REQUIRE(mmap(last, Pages::page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
                last);
      }
      backend.run_all();
      const Status status = backend.launch_kernel(stream, nullptr, 0, nothing, nullptr);
      CHECK(status.code == (replaced ? StatusCode::device_lost : StatusCode::ok));
      if (replaced) CHECK(backend.describe(status).find("a kernel met other pages") != std::string::npos);
      backend.run_all();
      static_cast<void>(backend.destroy_stream(stream));
      static_cast<void>(backend.unregister_host(data));
      REQUIRE(munmap(data, bytes) == 0);
    }
}
