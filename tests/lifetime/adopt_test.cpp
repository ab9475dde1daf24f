// One buffer over memory that the program has: its rules, and when the memory comes back. A device that ends or is lost
// is simulated: a GPU is there until the process ends.

#include <doctest/doctest.h>

#include <atomic>
#include <future>
#include <memory>
#include <optional>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include <thole/thole.hpp>

#include "support/adopted.hpp"
#include "support/rig.hpp"

using namespace support;

namespace {

template <class Buffer>
concept CanWrite = requires(Buffer buffer) {
  buffer.borrow_mut();
}
|| requires(Buffer buffer) { buffer.try_borrow_mut(); }
|| requires(Buffer buffer) { buffer.try_borrow_mut_for(forever); }
|| requires(Buffer buffer, StreamRef stream, DeviceSpan<const int> span) { buffer.async_from_device(stream, span); }
|| requires(Buffer buffer, StreamRef stream) {
  buffer.use_on(stream, Access::device_writes, [](auto, NativeStream) {});
};
template <class Buffer>
concept CanRead = requires(Buffer buffer, StreamRef stream, DeviceSpan<int> span) {
  buffer.borrow();
  buffer.async_to_device(stream, span);
  buffer.use_on(stream, Access::device_reads, [](const int*, NativeStream) {});
};
static_assert(CanRead<PinnedBuffer<const int>> && CanRead<PinnedBuffer<int>>);
static_assert(CanWrite<PinnedBuffer<int>> && !CanWrite<PinnedBuffer<const int>>);

}  // namespace

TEST_CASE("data is copied from where it lies and back to it, whatever its address and size") {
  const Device device = under_test();
  Stream stream(device);
  for (const std::size_t bytes : {std::size_t{1}, std::size_t{63}, std::size_t{65}, page, 3 * page + 17, MiB}) {
    CAPTURE(bytes);
    std::vector<std::byte> data(bytes + 11, std::byte{3});
    const Release release;
    {
      auto buffer = PinnedArena::adopt_buffer(device, gsl::span(data.data() + 11, bytes), Release(release).function());
      CHECK(buffer.size() == bytes);
      CHECK(buffer.unsynchronized_data() == data.data() + 11);
      fill(buffer, 5);
      auto there = buffer.async_to_device(stream);
      const Rig rig(device);
      rig.settle(stream);
      fill(buffer, 6);
      buffer.async_from_device(stream, there.span());
      rig.settle(stream);
      CHECK(all_are(buffer, 5));
      CHECK(release.calls() == 0);
    }
    release.wait();
    CHECK(release.calls() == 1);
    CHECK(data[10] == std::byte{3});
    CHECK_FALSE(is_registered(device, data.data() + 11));
  }
}

TEST_CASE("an adopted buffer keeps the rules of borrows and uses") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  std::vector<std::byte> data(KiB, std::byte{1});
  const Release release;
  {
    auto buffer = PinnedArena::adopt_buffer(rig.device, gsl::span<std::byte>(data), Release(release).function());
    auto gate = std::make_optional<Gate>(rig, stream);
    auto there = buffer.async_to_device(stream);
    CHECK(buffer.busy());
    errc_text_of(buffer.try_borrow_mut(), Errc::in_flight);
    { const auto read = buffer.borrow(); }
    gate->open();
    rig.settle(stream);
    {
      const auto write = buffer.borrow_mut();
      CHECK(has(errc_text([&] { (void)buffer.async_to_device(stream); }, Errc::borrowed), "adopt_test.cpp"));
    }
    auto [head, tail] = std::move(buffer).split_at(100);
    gate.emplace(rig, stream);
    tail.async_from_device(stream, there.span().subspan(0, KiB - 100));
    CHECK_FALSE(head.busy());
    { const auto write = head.borrow_mut(); }
    errc_text_of(tail.try_borrow(), Errc::in_flight);
    gate->open();
    rig.settle(stream);
  }
  release.wait();
}

TEST_CASE("release is called once, when handle, borrows, parts and copies are gone, and nothing is pinned") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  std::vector<std::byte> data(KiB, std::byte{4});
  const Release release;
  auto registered = std::make_shared<std::atomic<bool>>(true);
  std::optional<DeviceBuffer<std::byte>> there;
  std::optional<Gate> gate;
  {
    auto buffer = PinnedArena::adopt_buffer(rig.device, gsl::span<std::byte>(data),
                                            [&, registered, done = Release(release).function()] {
                                              *registered = is_registered(rig.device, data.data());
                                              done();
                                            });
    auto parts = std::move(buffer).split({24, 1000});
    gate.emplace(rig, stream);
    there.emplace(parts[1].async_to_device(stream));
    auto borrow = std::make_unique<Borrow<std::byte>>(parts[0].borrow());
    parts.clear();
    if (rig.simulated()) let_releases_pass(rig.device);
    CHECK(release.calls() == 0);
    CHECK((*borrow)[3] == std::byte{4});
    borrow.reset();
  }
  if (rig.simulated()) let_releases_pass(rig.device);  // on a GPU unpinning waits for the copy
  CHECK(release.calls() == 0);                         // which is still to come
  CHECK(is_registered(rig.device, data.data()));
  gate->open();
  rig.settle(stream);
  release.wait();  // and nobody calls thole
  CHECK(release.calls() == 1);
  CHECK_FALSE(*registered);
  CHECK(device_holds(rig, stream, *there, 4));
}

TEST_CASE("dropping adopted memory does not wait for a stream that is stuck") {
  const Rig rig(running_under_test());
  const Device& device = rig.device;
  const Stream stuck(device);
  Gate gate(rig, stuck);
  stuck.launch_host_function([] {});
  std::vector<std::byte> data(KiB);
  const Release release;
  { const auto buffer = PinnedArena::adopt_buffer(device, gsl::span<std::byte>(data), Release(release).function()); }
  if (rig.simulated()) until_blocked(rig.sim());  // the library's thread, in unregister_host
  CHECK(release.calls() == 0);
  gate.open();
  release.wait();
}

TEST_CASE("a graph that copies from adopted memory keeps it") {
  const Rig rig(under_test());
  Stream stream(rig.device);
  std::vector<std::byte> data(KiB, std::byte{6});
  DeviceBuffer<std::byte> there(stream, KiB);
  const Release release;
  std::optional<GraphExec> exec;
  {
    const auto buffer = PinnedArena::adopt_buffer(rig.device, gsl::span<std::byte>(data), Release(release).function());
    exec.emplace(capture(stream, [&] { buffer.async_to_device(stream, there.span()); }).instantiate());
  }
  let_releases_pass(rig.device);
  CHECK(release.calls() == 0);
  Gate gate(rig, stream);
  exec->launch(stream);
  exec.reset();
  if (rig.simulated()) let_releases_pass(rig.device);  // on a GPU unpinning waits for the launch
  CHECK(release.calls() == 0);                         // which is still to run
  gate.open();
  rig.settle(stream);
  release.wait();
  CHECK(device_holds(rig, stream, there, 6));
}

TEST_CASE("release may call thole, and what it throws can be asked for") {
  Device device = under_test();
  (void)device.take_error();  // of an earlier test's
  std::vector<int> data(10), more(10);
  const Release release;
  const Release of_first;
  {
    const auto buffer =
        PinnedArena::adopt_buffer(device, gsl::span<int>(data), [&, first = Release(of_first).function()] {
          const PinnedHeap heap(PinnedArena(device, {.bytes = MiB}));
          CHECK(heap.try_make_buffer<int>(100));
          { const auto next = PinnedArena::adopt_buffer(device, gsl::span<int>(more), Release(release).function()); }
          first();
          throw std::runtime_error("the file is gone");
        });
  }
  of_first.wait();
  release.wait();
  const auto told = device.take_error();
  REQUIRE(told);
  CHECK(has(told->what(), "the file is gone"));
}

TEST_CASE("adopted memory outlives its device's handle, and goes when the device is lost with nothing in flight") {
  std::vector<int> data(10), lost(10);
  const Release release, of_lost;
  auto buffer = PinnedArena::adopt_buffer(stepped(), gsl::span<int>(data), Release(release).function());
  buffer.borrow_mut()[3] = 3;
  buffer = {};
  release.wait();
  CHECK(data[3] == 3);
  {
    const Device device = stepped();
    const auto held = PinnedArena::adopt_buffer(device, gsl::span<int>(lost), Release(of_lost).function());
    device.simulation().lose_device();
  }
  of_lost.wait();
}

TEST_CASE("many adopted buffers at once, dropped on other threads, are all released once") {
  const Device device = Device::simulated();
  const Stream stream(device);
  constexpr std::size_t count = 200;
  std::vector<std::vector<int>> data(count, std::vector<int>(64, 5));
  std::atomic<std::size_t> released{0};
  const Release all;
  std::vector<PinnedBuffer<int>> buffers;
  for (auto& one : data)
    buffers.push_back(
        PinnedArena::adopt_buffer(device, gsl::span<int>(one), [&released, done = Release(all).function()] {
          if (++released == count) done();
        }));
  std::vector<DeviceBuffer<int>> there;
  for (auto& buffer : buffers) there.push_back(buffer.async_to_device(stream));
  std::thread([dropped = std::move(buffers)]() mutable { dropped.clear(); }).join();
  all.wait();
  CHECK(released == count);
}
