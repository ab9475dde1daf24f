// Kernels that run on both devices: what their function for the CPU is given, and when it runs. That function runs on
// the simulated device alone; kernel_test.cpp asks of both devices what holds on both.

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <numeric>

#include "../support/rig.hpp"

using namespace support;

namespace {

constexpr std::size_t count = 3000;

/// Where the test has no GPU: what a kernel's launch would be is not called.
constexpr auto no_gpu = [](auto...) { FAIL("the function for the GPU ran"); };

PinnedBuffer<int> numbers(const Rig& rig) {
  auto buffer = rig.heap.make_buffer<int>(count);
  auto borrow = buffer.borrow_mut();
  std::iota(borrow.begin(), borrow.end(), 0);
  return buffer;
}

/// How a child ends that makes a device of its own and runs `kernel(device buffer, other device buffer)` there.
template <class Kernel>
bool ends_badly(Kernel kernel) {
  const pid_t child = fork();
  if (child == 0) {
    (void)std::signal(SIGSEGV, SIG_DFL);
    const Rig rig;
    const Stream stream(rig.device);
    DeviceBuffer<int> listed(stream, count), other(stream, count);
    kernel(stream, listed, other);
    rig.sim().run_all();
    _exit(0);
  }
  int state = 0;
  REQUIRE(waitpid(child, &state, 0) == child);
  return state != 0;
}

}  // namespace

TEST_CASE("a kernel runs in the order of its stream, with what is listed, and writes what it says") {
  const Rig rig;
  const Stream stream(rig.device);
  const auto in = numbers(rig);
  DeviceBuffer<int> on_device(stream, count);
  auto out = rig.heap.make_buffer<int>(count);
  bool ran = false;
  launch(stream, reads(in), writes(on_device), no_gpu, [&ran](gsl::span<const int> from, gsl::span<int> to) {
    ran = true;
    for (std::size_t i = 0; i != from.size(); ++i) to[i] = 2 * from[i];
  });
  launch(stream, reads(on_device.span().subspan(1, count - 1)), writes(out), no_gpu,
         [](gsl::span<const int> from, gsl::span<int> to) {
           CHECK(from.size() == count - 1);
           std::copy(from.begin(), from.end(), to.begin());
         });
  CHECK(!ran);
  CHECK(!out.try_borrow());  // it is being written
  CHECK(in.try_borrow());
  rig.sim().run_all();
  const auto borrow = out.borrow();
  for (std::size_t i = 0; i + 1 != count; ++i) REQUIRE(borrow[i] == static_cast<int>(2 * (i + 1)));
}

TEST_CASE("what a kernel uses may be dropped before it runs, and another stream's held work does not hold it") {
  const auto device = Device::simulated();
  const PinnedHeap heap(PinnedArena(device, {.bytes = MiB}));
  const Stream stuck(device), stream(device);
  device.simulation().hold(stuck);
  stuck.launch_host_function([] {});
  std::atomic<int> sum{0};
  {
    auto in = heap.make_buffer<int>(count, 1);
    auto there = in.async_to_device(stream);
    launch(stream, reads(in), reads(there), no_gpu, [&sum](gsl::span<const int> a, gsl::span<const int> b) {
      sum = std::accumulate(a.begin(), a.end(), 0) + std::accumulate(b.begin(), b.end(), 0);
    });
  }
  stream.synchronize();
  CHECK(sum == 2 * count);
  device.simulation().release(stuck);
}

TEST_CASE("a launch is refused as any use is, and keeps nothing then") {
  const Rig rig;
  const Stream stream(rig.device);
  auto buffer = numbers(rig);
  const auto owned = std::make_shared<int>(0);
  {
    const auto borrow = buffer.borrow();
    errc_text([&] { launch(stream, writes(buffer), no_gpu, [owned](gsl::span<int>) {}); }, Errc::borrowed);
  }
  CHECK(owned.use_count() == 1);
  int on_host = 0;
  const auto unknown = DeviceSpan<int>::from_native(rig.device, &on_host, 1);
  CHECK(!try_launch(stream, writes(unknown), no_gpu, [](gsl::span<int>) {}));
  rig.sim().fail_call(SimulatedCall::kernel, 1);
  CHECK(!try_launch(stream, writes(buffer), no_gpu, [](gsl::span<int>) {}));
  CHECK(try_launch(stream, writes(buffer), no_gpu, [owned](gsl::span<int>) {}));
  CHECK(owned.use_count() == 2);
  rig.sim().run_all();
  CHECK(owned.use_count() == 1);
}

TEST_CASE("memory that other code allocated on the simulated device is a kernel's, and a copy's, by its address") {
  const Rig rig;
  const Stream stream(rig.device);
  const auto in = numbers(rig);
  void* address = nullptr;
  REQUIRE(rig.backend().allocate_device(count * sizeof(int), stream.native(), &address).ok());
  const auto span = DeviceSpan<int>::from_native(rig.device, static_cast<int*>(address), count);
  in.async_to_device(stream, span);
  launch(stream, writes(span), no_gpu, [](gsl::span<int> all) { all[0] = -1; });
  auto back = rig.heap.make_buffer<int>(count);
  back.async_from_device(stream, span);
  rig.sim().run_all();
  CHECK(back.borrow()[0] == -1);
  CHECK(back.borrow()[count - 1] == static_cast<int>(count - 1));
  CHECK(rig.sim().view_of(span.native())[0] == -1);
  REQUIRE(rig.backend().free_device(address, stream.native()).ok());
  rig.sim().run_all();
}

TEST_CASE("a captured kernel runs with each launch of the graph, which keeps its function and its memory") {
  const Rig rig;
  const Stream stream(rig.device);
  auto runs = std::make_shared<int>(0);
  {
    rig.sim().begin_capture(stream);
    {
      auto buffer = numbers(rig);
      launch(stream, writes(buffer), no_gpu, [runs](gsl::span<int> all) {
        ++*runs;
        ++all[0];
      });
    }
    auto graph = rig.sim().end_capture(stream);
    auto exec = graph.instantiate();
    exec.launch(stream);
    exec.launch(stream);
    rig.sim().run_all();
    CHECK(*runs == 2);
  }
  rig.sim().run_all();
  until([&] { return runs.use_count() == 1; });
}

TEST_CASE("calls of the device are refused in a kernel") {
  const Rig rig;
  const Stream stream(rig.device);
  auto buffer = numbers(rig);
  auto code = detail::StatusCode::ok;
  launch(stream, writes(buffer), no_gpu, [&](gsl::span<int>) {
    void* event = nullptr;
    code = rig.backend().create_event(&event).code;
  });
  rig.sim().run_all();
  CHECK(code == detail::StatusCode::not_permitted);
}

TEST_CASE("a kernel that touches what is not listed, past it, or writes what it reads, ends the process") {
  CHECK(!ends_badly([](auto& stream, auto& listed, auto&) {
    launch(stream, writes(listed), no_gpu, [](gsl::span<int> all) { all[0] = all[count - 1] = 1; });
  }));
  CHECK(ends_badly([](auto& stream, auto& listed, auto& other) {
    launch(stream, writes(listed), no_gpu, [data = other.span().native()](gsl::span<int> all) { all[0] = *data; });
  }));
  CHECK(ends_badly([](auto& stream, auto& listed, auto&) {
    launch(stream, writes(listed), no_gpu,
           [](gsl::span<int> all) { all.data()[3 * 1024] = 1; } /* 3000 are listed: three pages */);
  }));
  CHECK(ends_badly([](auto& stream, auto& listed, auto&) {
    launch(stream, reads(listed), no_gpu, [](gsl::span<const int> all) { const_cast<int&>(all[0]) = 1; });
  }));
}
