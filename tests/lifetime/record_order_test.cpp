// Threads that record events in one stream at one time: positions, events and thole's list of them have one order, or
// an event would be taken for done with one that is in front of it on the list and behind it in the stream. Hooks and
// steps of the simulated device bring about what a GPU would show once in a million times.

#include <algorithm>
#include <atomic>
#include <functional>
#include <optional>
#include <thread>
#include <vector>

#include "../support/rig.hpp"
#include "streams/ticket.hpp"

using namespace support;

namespace {

constexpr std::size_t bytes = 4 * KiB;

/// Lets other threads come so far, if nothing holds them up; who is held up is not waited for.
template <class F>
void give_a_chance(F&& has_come) {
  for (int i = 0; i != 10000 && !has_come(); ++i) std::this_thread::yield();
}

/// A stream of thole's or of the program's, and two copies, each with memory of its own.
struct Scene {
  explicit Scene(bool foreign) : own(rig.device), view(own) {
    rig.settle(own);
    own.synchronize();  // so that it is known: the copies then need not wait for the memory
    if (!foreign) return;
    REQUIRE(rig.backend().create_stream(&native).ok());
    view = detail::unwrap(detail::stream_from_native(rig.device, native));
  }
  ~Scene() {
    if (native != nullptr) CHECK(rig.backend().destroy_stream(native).ok());
  }
  Scene(const Scene&) = delete;
  Scene& operator=(const Scene&) = delete;
  void copy(std::size_t which) { buffers[which].async_to_device(view, targets[which].span()); }

  const Rig rig;
  const Stream own;
  void* native = nullptr;
  StreamRef view;
  DeviceBuffer<std::byte> targets[2] = {{own, bytes}, {own, bytes}};
  PinnedBuffer<std::byte> buffers[2] = {rig.heap.make_buffer<std::byte>(bytes), rig.heap.make_buffer<std::byte>(bytes)};
};

/// One thread records in this way, behind the first copy. When the device has the event and thole has not listed it
/// yet, another thread makes the second copy and records behind that, if it can.
template <class Record>
Event record_in_the_middle(Scene& scene, Record&& record) {
  std::atomic<bool> go{false}, done{false};
  std::optional<Event> second;
  {
    const std::jthread other([&] {
      go.wait(false);
      scene.copy(1);
      second = scene.view.record();
      done = true;
    });
    scene.rig.sim().after_call(SimulatedCall::record_event, [&] {
      go = true;
      go.notify_all();
      give_a_chance([&] { return done.load(); });
    });
    record();
  }
  return std::move(*second);
}

}  // namespace

TEST_CASE("an event that another thread records in the middle of record() is not ready with the one in front of it") {
  Scene scene(false);
  scene.copy(0);
  std::optional<Event> first;
  const Event second = record_in_the_middle(scene, [&] { first = scene.view.record(); });
  CHECK(scene.rig.sim().step(scene.view, 2) == 2);  // the first copy and its event
  CHECK(first->ready());
  CHECK(!second.ready());
  scene.rig.sim().run_all();
  CHECK(second.ready());
}

TEST_CASE("an event that another thread records while a buffer is asked for is not ready with that buffer") {
  Scene scene(false);
  scene.copy(0);
  const Event second = record_in_the_middle(scene, [&] { CHECK(scene.buffers[0].busy()); });
  CHECK(scene.rig.sim().step(scene.view, 2) == 2);
  CHECK(!scene.buffers[0].busy());
  CHECK(scene.rig.heap.collect() == 0);
  CHECK(!second.ready());
  CHECK(scene.buffers[1].busy());
  scene.rig.sim().run_all();
  CHECK(second.ready());
}

TEST_CASE("an event that another thread records in the middle of a foreign stream's use is not ready with that use") {
  Scene scene(true);
  const Event second = record_in_the_middle(scene, [&] { scene.copy(0); });
  CHECK(scene.rig.sim().step(scene.view, 2) == 2);
  CHECK(!scene.buffers[0].busy());
  CHECK(scene.rig.heap.collect() == 0);
  CHECK(!second.ready());
  CHECK(scene.buffers[1].busy());
  scene.rig.sim().run_all();
  CHECK(second.ready());
}

TEST_CASE("events of many threads in one stream get ready in the order of their positions, each behind its copy") {
  constexpr std::size_t threads = 4, rounds = 25;
  const Rig rig;
  const Stream stream(rig.device);
  DeviceBuffer<std::byte> target(stream, threads * rounds);
  rig.heap.make_buffer<std::byte>(target.size(), std::byte{0}).async_to_device(stream, target.span());
  rig.settle(stream);
  struct Recorded {
    std::size_t word;  // that the copy in front of it writes
    Event event;
    const detail::Ticket& ticket() const { return *detail::HandleAccess::ticket(event); }
  };
  // In the middle of each record the others get the processor.
  std::atomic<std::size_t> records{0};
  std::function<void()> middle = [&] {
    rig.sim().after_call(SimulatedCall::record_event, middle);
    const std::size_t seen = ++records;
    for (int i = 0; i != 100 && records == seen; ++i) std::this_thread::yield();
  };
  rig.sim().after_call(SimulatedCall::record_event, middle);
  std::vector<Recorded> all[threads];
  {
    std::vector<std::jthread> running;
    for (std::size_t thread = 0; thread != threads; ++thread)
      running.emplace_back([&, thread] {
        const auto buffer = rig.heap.make_buffer<std::byte>(1, std::byte{1});
        for (std::size_t round = 0; round != rounds; ++round) {
          const std::size_t word = thread * rounds + round;
          buffer.async_to_device(stream, target.span().subspan(word, 1));
          all[thread].push_back({word, stream.record()});
        }
      });
  }
  rig.sim().after_call(SimulatedCall::record_event, nullptr);
  std::vector<Recorded> events;
  for (auto& of_thread : all) std::ranges::move(of_thread, std::back_inserter(events));
  std::ranges::sort(events, {}, [](const Recorded& each) { return each.ticket().serial; });
  CHECK(std::ranges::is_sorted(events, {}, [](const Recorded& each) { return each.ticket().position; }));
  const std::byte* const seen = rig.sim().view_of(target.span().native());
  do {
    // The last first: who is asked later may have been found done with another.
    bool later_is_ready = false;
    bool as_it_must_be = true;
    for (std::size_t i = events.size(); i != 0; --i) {
      const Recorded& each = events[i - 1];
      const bool ready = each.event.ready();
      as_it_must_be = as_it_must_be && (ready || !later_is_ready) && (!ready || seen[each.word] == std::byte{1});
      later_is_ready = ready;
    }
    REQUIRE(as_it_must_be);
  } while (rig.sim().step(stream) != 0);
  CHECK(std::ranges::all_of(events, [](const Recorded& each) { return each.event.ready(); }));
}
