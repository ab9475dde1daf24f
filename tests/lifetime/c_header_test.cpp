// What <thole/thole.h> takes and C cannot see: the device behind the names of C is looked at with those of C++.

#include <thole/thole.h>
#include <string>
#include <vector>

#include "../support/rig.hpp"
#include "api/known_devices.hpp"

using namespace support;

namespace {

/// A stepped device of C's, with two streams.
class OfC {
 public:
  explicit OfC(thole_simulation_options options, std::int32_t priority = 0) {
    options.stepped = 1;
    thole_arena_options arena_options{};
    arena_options.bytes = MiB;
    REQUIRE(thole_device_simulated(&options, &device) == THOLE_OK);
    REQUIRE(thole_arena_create(device, &arena_options, &arena) == THOLE_OK);
    REQUIRE(thole_heap_create(arena, nullptr, &heap) == THOLE_OK);
    for (thole_stream*& stream : streams) REQUIRE(thole_stream_create(device, priority, &stream) == THOLE_OK);
  }
  ~OfC() {
    for (thole_stream* const stream : streams) thole_stream_destroy(stream);
    thole_heap_destroy(heap);
    thole_arena_destroy(arena);
    thole_device_destroy(device);
  }
  OfC(const OfC&) = delete;
  OfC& operator=(const OfC&) = delete;

  /// The same device, which its streams' raw handles lead to.
  Device seen() const {
    const Device other = Device::simulated();
    return detail::HandleAccess::device(
        detail::unwrap(detail::device_of_native(detail::HandleAccess::core(other), native(0))));
  }
  StreamRef stream(std::size_t index) const {
    return detail::unwrap(detail::stream_from_native(seen(), static_cast<NativeStream>(native(index))));
  }

  thole_device* device = nullptr;
  thole_arena* arena = nullptr;
  thole_heap* heap = nullptr;
  thole_stream* streams[2] = {};

 private:
  void* native(std::size_t index) const {
    void* handle = nullptr;
    REQUIRE(thole_stream_native(streams[index], &handle) == THOLE_OK);
    return handle;
  }
};

/// The order in which the work of two streams is done.
std::string order(Simulation sim, const StreamRef& a, const StreamRef& b) {
  std::string log;
  for (int i = 0; i != 8; ++i) {
    a.launch_host_function([&] { log += 'a'; });
    b.launch_host_function([&] { log += 'b'; });
  }
  sim.run_all();
  return log;
}

}  // namespace

TEST_CASE("C: a simulated device has the seed that it was asked to have") {
  std::vector<std::string> orders;
  for (std::uint64_t seed = 0; seed != 4; ++seed) {
    thole_simulation_options options{};
    options.seed = seed;
    const OfC made(options);
    const Device device = stepped(seed);
    const Stream a(device), b(device);
    orders.push_back(order(made.seen().simulation(), made.stream(0), made.stream(1)));
    CHECK(orders.back() == order(device.simulation(), a, b));
  }
  CHECK(orders != std::vector<std::string>(4, orders[0]));
}

TEST_CASE("C: a simulated device has as much memory as it was asked to have, or 4 GiB") {
  thole_simulation_options options{};
  const OfC usual(options);
  CHECK(DeviceBuffer<std::byte>::try_make(usual.stream(0), MiB).has_value());
  CHECK(DeviceBuffer<std::byte>::try_make(usual.stream(0), std::size_t{4096} * MiB + 1).error().errc() ==
        Errc::out_of_memory);
  options.device_bytes = MiB;
  const OfC small(options);
  CHECK(DeviceBuffer<std::byte>::try_make(small.stream(0), MiB + 1).error().errc() == Errc::out_of_memory);
  CHECK(DeviceBuffer<std::byte>::try_make(small.stream(0), MiB).has_value());
}

TEST_CASE("C: a stream has the priority that it was asked to have") {
  for (const int priority : {0, -1, -2}) CHECK(OfC({}, priority).stream(0).priority() == priority);
}

TEST_CASE("C: an error that nobody could be told is told once") {
  const OfC made({});
  void* data = nullptr;
  REQUIRE(thole_allocate(made.heap, 4096, 0, &data) == THOLE_OK);
  CHECK(thole_device_take_error(made.device) == THOLE_OK);
  made.seen().simulation().fail_call(SimulatedCall::record_device, 1);
  CHECK(thole_deallocate_after_all(made.heap, data) == THOLE_OK);
  thole_status status = THOLE_OK;
  until([&] { return (status = thole_device_take_error(made.device)) != THOLE_OK; });
  CHECK(status == THOLE_DEVICE_ERROR);
  CHECK(has(thole_last_error(), "thole_device_take_error: PinnedHeap::deallocate_after_all"));
  CHECK(thole_device_take_error(made.device) == THOLE_OK);
  until([&] { return thole_heap_drain(made.heap, 0) == THOLE_OK; });
}
