// Rule 8, where the process ends: thole's own threads keep out of the driver. A program of its own, since what has
// ended does not begin again.

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <string_view>

#include "../support/rig.hpp"
#include "base/process_exit.hpp"
#include "heap/arena_core.hpp"
#include "heap/caretaker.hpp"

using namespace support;

TEST_CASE("the end waits for a call that is going on, and no thread of thole's own makes another") {
  std::optional<Rig> on_a_gpu;
  std::optional<Stream> stream_there;
  if (on_gpu()) {
    on_a_gpu.emplace(under_test());
    stream_there.emplace(on_a_gpu->device);
    (void)stream_there->record();
  }
  // What a function of the program's holds may call, too, when it ends on a thread of the library's.
  struct Held {
    std::atomic<bool> ending{false}, may_end{false};
  } held;
  std::optional<PinnedArena> telling;
  {
    ArenaOptions options{.bytes = MiB};
    options.on_region_removed = [guard = std::shared_ptr<Held>(&held, [](Held* self) {
                                   self->ending = true;
                                   until([&] { return self->may_end.load(); });
                                 })](gsl::span<std::byte>) {};
    telling.emplace(stepped(), options);
  }
  telling.reset();
  until([&] { return held.ending.load(); });

  std::optional<detail::BackgroundCalls> going_on(std::in_place);
  REQUIRE(*going_on);
  std::atomic<bool> ended{false};
  std::thread exit_handler([&] {
    detail::end_calls(std::chrono::hours(1));
    ended = true;
  });
  until([] { return !detail::BackgroundCalls(); });
  CHECK(!ended);
  going_on.reset();
  for (int i = 0; i != 10'000 && !ended; ++i) std::this_thread::yield();
  CHECK(!ended);
  held.may_end = true;
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

  // The one that takes care of arenas keeps the one that it has in hand, which it may be the last to hold.
  const auto& core = detail::HandleAccess::core(device);
  auto store = detail::Store::open(core, {.bytes = MiB, .max_bytes = 2 * MiB, .region = {}});
  REQUIRE(store);
  auto arena = std::make_shared<detail::ArenaCore>(core, *store);
  const std::weak_ptr<detail::ArenaCore> seen = arena;
  arena->upkeep.next_look = std::chrono::steady_clock::time_point::min();
  REQUIRE(detail::take_care_of(arena));
  until([&] { return seen.use_count() == 2; });
  arena.reset();
  for (int i = 0; i != 10'000 && seen.use_count() == 1; ++i) std::this_thread::yield();
  CHECK(seen.use_count() == 1);
  CHECK(device.simulation().arena_bytes() == MiB);

  // A call of the program's own is refused before it reaches a driver that may be gone.
  if (!on_a_gpu) return;
  const auto refused = stream_there->try_record();
  REQUIRE(!refused);
  CHECK(refused.error().errc() == Errc::device_lost);
  CHECK_MESSAGE(std::string_view(refused.error().what()).find("the process is ending") != std::string_view::npos,
                refused.error().what());
}
