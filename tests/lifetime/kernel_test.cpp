// thole::launch with a kernel that runs on both devices: on a GPU a real one, on a simulated device its function for
// the CPU.

#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include "../support/gpu_gate.hpp"
#include "../support/rig.hpp"

using namespace support;

namespace {

constexpr std::size_t count = 3000;

PinnedBuffer<int> numbers(const Rig& rig, int from = 0) {
  auto buffer = rig.heap.make_buffer<int>(count);
  auto borrow = buffer.borrow_mut();
  std::iota(borrow.begin(), borrow.end(), from);
  return buffer;
}

/// Launches the kernel that makes `out` twice `in`. Each is a buffer, device memory or a span.
template <class In, class Out>
void twice(const Rig& rig, const StreamRef& stream, In& in, Out& out) {
  launch(
      stream, reads(in), writes(out),
      [&rig](const int* from, int* to, NativeStream native) {
        REQUIRE(gpu::launch_twice(rig.device.ordinal(), native, from, to, count));
      },
      [](gsl::span<const int> from, gsl::span<int> to) {
        for (std::size_t i = 0; i != from.size(); ++i) to[i] = 2 * from[i];
      });
}

void check_are(const PinnedBuffer<int>& buffer, int factor, int from = 0) {
  const auto borrow = buffer.borrow();
  for (std::size_t i = 0; i != count; ++i) REQUIRE(borrow[i] == factor * (static_cast<int>(i) + from));
}

}  // namespace

TEST_CASE("kernels run in the order of their stream, on pinned and on device memory, and borrows follow them") {
  const Rig rig(under_test());
  if (!has_what_it_needs(rig)) return;
  const Stream stream(rig.device);
  auto in = numbers(rig);
  DeviceBuffer<int> between(stream, count);
  auto out = rig.heap.make_buffer<int>(count);
  rig.settle(stream);
  KernelGate gate(rig, stream);
  twice(rig, stream, in, between);
  twice(rig, stream, between, out);
  CHECK(!out.try_borrow());  // it is to be written
  CHECK(in.try_borrow());
  CHECK(!in.try_borrow_mut());  // it is to be read
  gate.open();
  rig.settle(stream);
  check_are(out, 4);
  CHECK(in.try_borrow_mut());
}

TEST_CASE("a kernel of another stream comes after the one whose output it reads") {
  const Rig rig(under_test());
  if (!has_what_it_needs(rig)) return;
  const Stream stream(rig.device), other(rig.device);
  auto in = numbers(rig);
  auto between = rig.heap.make_buffer<int>(count, 0);
  auto out = rig.heap.make_buffer<int>(count, 0);
  KernelGate gate(rig, stream);
  twice(rig, stream, in, between);
  twice(rig, other, between, out);
  if (rig.simulated()) rig.sim().run_all();  // what is not ordered behind the gate runs; a GPU does not wait to be told
  CHECK(!out.try_borrow());
  gate.open();
  rig.settle(stream);
  rig.settle(other);
  check_are(out, 4);
}

TEST_CASE("memory that a kernel uses and nobody holds goes to nobody before the kernel has run") {
  const Rig rig(under_test());
  if (!has_what_it_needs(rig)) return;
  const Stream stream(rig.device);
  auto out = rig.heap.make_buffer<int>(count);
  KernelGate gate(rig, stream);
  {
    auto in = numbers(rig);
    DeviceBuffer<int> between(stream, count);
    twice(rig, stream, in, between);
    twice(rig, stream, between, out);
  }
  const auto in_flight = rig.heap.stats().in_flight;
  CHECK(in_flight >= count * sizeof(int));
  std::vector<PinnedBuffer<int>> others;  // all that is left, overwritten
  for (;;) {
    auto made = rig.heap.try_make_buffer<int>(count, -1);
    if (!made) break;
    others.push_back(std::move(*made));
  }
  CHECK(rig.heap.stats().in_flight == in_flight);
  gate.open();
  rig.settle(stream);
  check_are(out, 4);
  others.clear();
  { const auto gone = std::move(out); }
  until([&] { return rig.all_free(); });
}

TEST_CASE("a captured kernel runs at each launch with what its memory then holds") {
  const Rig rig(under_test());
  if (!has_what_it_needs(rig)) return;
  const Stream stream(rig.device);
  auto in = numbers(rig);
  auto out = rig.heap.make_buffer<int>(count);
  twice(rig, stream, in, out);  // loads the kernel, which a capture might not allow
  rig.settle(stream);
  const Graph graph = capture(stream, [&] { twice(rig, stream, in, out); });
  auto exec = graph.instantiate();
  for (int round = 0; round != 3; ++round) {
    {
      auto borrow = in.borrow_mut();
      std::iota(borrow.begin(), borrow.end(), round);
    }
    exec.launch(stream);
    rig.settle(stream);
    check_are(out, 2, round);
  }
}

TEST_CASE("memory that other code allocated on the device is a kernel's, and a copy's, by its address") {
  const Rig rig(under_test());
  if (!has_what_it_needs(rig)) return;
  const Stream stream(rig.device);
  auto in = numbers(rig);
  auto out = rig.heap.make_buffer<int>(count);
  void *first = nullptr, *second = nullptr;
  REQUIRE(rig.backend().allocate_device(count * sizeof(int), stream.native(), &first).ok());
  REQUIRE(rig.backend().allocate_device(count * sizeof(int), stream.native(), &second).ok());
  const auto from = DeviceSpan<int>::from_native(rig.device, static_cast<int*>(first), count);
  const auto to = DeviceSpan<int>::from_native(rig.device, static_cast<int*>(second), count);
  in.async_to_device(stream, from);
  twice(rig, stream, from, to);
  out.async_from_device(stream, to);
  rig.settle(stream);
  check_are(out, 2);
  REQUIRE(rig.backend().free_device(first, stream.native()).ok());
  REQUIRE(rig.backend().free_device(second, stream.native()).ok());
  rig.settle(stream);
}

TEST_CASE("a launch that is refused runs neither of its functions") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  auto buffer = numbers(rig);
  const auto never = [](auto...) { FAIL_CHECK("a function of a refused launch ran"); };
  {
    const auto borrow = buffer.borrow();
    errc_text([&] { launch(stream, writes(buffer), never, never); }, Errc::borrowed);
  }
  rig.finish(stream);
  check_are(buffer, 1);
}
