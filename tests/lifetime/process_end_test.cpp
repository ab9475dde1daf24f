// Rule 8, where the process ends: thole's own threads keep out of the driver. A program of its own, since what has
// ended does not begin again.

#include <atomic>
#include <chrono>
#include <optional>

#include "../support/rig.hpp"
#include "base/process_exit.hpp"

using namespace support;

TEST_CASE("the end waits for a call that is going on, and no thread of thole's own makes another") {
  std::optional<detail::BackgroundCalls> going_on(std::in_place);
  REQUIRE(*going_on);
  std::atomic<bool> ended{false};
  std::thread exit_handler([&] {
    detail::end_background_calls(std::chrono::hours(1));
    ended = true;
  });
  until([] { return !detail::BackgroundCalls(); });
  CHECK(!ended);
  going_on.reset();
  exit_handler.join();
  CHECK(ended);

  // What the threads would have done waits for a call of the program's that needs it.
  const auto device = stepped();
  { const PinnedArena arena(device, {.bytes = MiB}); }
  {
    const PinnedHeap heap(PinnedArena(device, {.bytes = MiB}), {.background_reclaim = true});
    const Stream stream(device);
    DeviceBuffer<std::byte> target(stream, 1000);
    heap.make_buffer<std::byte>(1000).async_to_device(stream, target.span());
  }
  device.simulation().run_all();
  CHECK(device.simulation().arena_bytes() == MiB);
  (void)PinnedHeap(PinnedArena(device, {.bytes = MiB})).collect();
  CHECK(device.simulation().arena_bytes() == 0);
}
