// What comes and goes beside a stream that stands still holds up nobody's work.

#include <atomic>
#include <chrono>
#include <future>
#include <thread>
#include <vector>

#include "../support/rig.hpp"

using namespace support;

namespace {

constexpr std::size_t bytes = 4 * KiB;

/// Arenas of both kinds, with buffers in them, which grow, and heaps that are full: made and dropped until told to
/// stop. try_make alone unpins nothing, whatever earlier arenas have left.
void arenas_come_and_go(const Device& device, const StreamRef& stuck, DeviceBuffer<std::byte>& memory,
                        const std::atomic<bool>& stop, std::atomic<int>& rounds) {
  for (int round = 0; !stop; ++round) {
    const auto method = round % 2 == 0 ? PinMethod::register_pages : PinMethod::host_alloc;
    const ArenaOptions options{.bytes = MiB, .max_bytes = 4 * MiB, .pin_method = method};
    auto arena = PinnedArena::try_make(device, options);
    CHECK_MESSAGE(arena.has_value(), (arena ? "" : arena.error().what()));
    if (!arena) return;
    const PinnedHeap heap(*arena);
    std::vector<PinnedBuffer<std::byte>> buffers;
    for (;;) {
      auto made = heap.try_make_buffer<std::byte>(MiB / 2);
      if (!made) break;
      buffers.push_back(std::move(*made));
    }
    CHECK(arena->capacity() > MiB);
    // Some wait for the stream that is stuck: then their arena ends behind it.
    if (round < 4) buffers.front().async_to_device(stuck, memory.span(), 0, bytes);
    buffers.clear();
    ++rounds;
  }
}

}  // namespace

TEST_CASE("while arenas come, grow and go beside a stuck stream, another stream's round trips go on") {
  constexpr int round_trips = 200;
  // One that runs by itself: on it who unpins waits for what is stuck, and holds up the others, as on a GPU.
  const Rig rig(running_under_test());
  const Stream stuck(rig.device), stream(rig.device);
  DeviceBuffer<std::byte> target(stream, bytes), other(stuck, bytes);
  auto buffer = rig.heap.make_buffer<std::byte>(bytes, std::byte{1});
  stream.synchronize();
  stuck.synchronize();
  std::atomic<bool> stop{false};
  std::atomic<int> rounds{0}, trips{0};
  Gate gate(rig, stuck);
  std::thread arenas([&] { arenas_come_and_go(rig.device, stuck, other, stop, rounds); });
  auto trip = std::async(std::launch::async, [&] {
    for (; !stop && (trips < round_trips || rounds < 20); ++trips) {
      buffer.async_to_device(stream, target.span());
      stream.record().synchronize();
    }
  });
  // Where this fails nothing goes on before the gate is opened: so the wait has an end.
  const bool finished = trip.wait_for(std::chrono::seconds(60)) == std::future_status::ready;
  CAPTURE(trips.load());
  CAPTURE(rounds.load());
  CHECK(finished);
  stop = true;
  gate.open();
  trip.wait();
  arenas.join();
  stuck.synchronize();
}
