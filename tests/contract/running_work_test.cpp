// Calls beside work that does not end: which wait for it, and which do not.

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>
#include <vector>

#include "backend/simulated/backend.hpp"
#include "contract.hpp"

using namespace contract;
using thole::detail::EventFlags;

namespace {

constexpr std::size_t bytes = 16 * Pages::page;

/// Lets `let_go(memory)` run beside a stream that is stuck, and a copy of another thread in another stream beside that:
/// both come to their end, the first not before the stream.
template <class Prepare, class LetGo>
void lets_go_beside_a_stuck_stream(DeviceBackend& backend, Prepare prepare, LetGo let_go) {
  const TestStream stuck(backend), other(backend);
  const OnDevice device(backend, bytes, other);
  const Pinned host(backend, bytes);
  const TestEvent event(backend);
  void* const memory = prepare();
  CONTRACT_OK(backend, record_event(event, other));
  other.synchronize();
  std::atomic<bool> opened{false};
  Gate gate(backend, stuck);
  std::thread first([&] {
    CHECK(let_go(memory).ok());
    CHECK(opened);
  });
  std::thread second(
      [&] { CHECK(backend.copy(device.data(), host.data(), bytes, CopyKind::host_to_device, other).ok()); });
  for (int i = 0; i < 1000; ++i) {  // queries go on
    const StatusCode code = backend.query_event(event).code;
    CHECK(code == StatusCode::ok);
  }
  opened = true;
  gate.open();
  first.join();
  second.join();
  other.synchronize();
}

}  // namespace

CONTRACT_CASE("memory can be pinned beside a stream that is stuck [14]") {
  const Pages pages(bytes);
  const TestStream stuck(backend);
  {
    Gate gate(backend, stuck);
    CONTRACT_OK(backend, register_host(pages.data(), bytes));
  }
  stuck.synchronize();
  CONTRACT_OK(backend, unregister_host(pages.data()));
}

CONTRACT_CASE("unpinning waits for running work that does not use the memory [16]") {
  const Pages pages(bytes);
  lets_go_beside_a_stuck_stream(
      backend,
      [&]() -> void* {
        CONTRACT_OK(backend, register_host(pages.data(), bytes));
        return pages.data();
      },
      [&](void* memory) { return backend.unregister_host(memory); });
}

CONTRACT_CASE("freeing the driver's pinned memory waits for running work that does not use it [18]") {
  lets_go_beside_a_stuck_stream(
      backend,
      [&] {
        void* memory = nullptr;
        CONTRACT_OK(backend, allocate_host(bytes, &memory));
        return memory;
      },
      [&](void* memory) { return backend.free_host(memory); });
}

CONTRACT_CASE("several threads may add to one stream, and what each adds stays in its order [2]") {
  struct Note {
    std::vector<int>* all;
    int value;
  };
  constexpr int threads = 4, each = 50;
  const TestStream stream(backend);
  std::vector<int> seen;  // one thread runs all functions
  std::vector<Note> notes;
  for (int i = 0; i < threads * each; ++i) notes.push_back({&seen, i});
  std::vector<std::thread> givers;
  for (int giver = 0; giver < threads; ++giver)
    givers.emplace_back([&, giver] {
      for (int i = giver * each; i < (giver + 1) * each; ++i) {
        const Status status = backend.launch_host_function(
            stream,
            [](void* argument) {
              auto& note = *static_cast<Note*>(argument);
              note.all->push_back(note.value);
            },
            &notes[static_cast<std::size_t>(i)]);
        CHECK(status.ok());
      }
    });
  for (auto& giver : givers) giver.join();
  stream.synchronize();
  REQUIRE(seen.size() == threads * each);
  std::vector<int> next;
  for (int giver = 0; giver < threads; ++giver) next.push_back(giver * each);
  for (const int value : seen) CHECK(value == next[static_cast<std::size_t>(value / each)]++);
}

CONTRACT_CASE("memory that a stuck stream is to free does not make another stream wait that allocates [21]") {
  constexpr std::size_t large = std::size_t{64} << 20;  // more than any chunk that a driver's pool has to spare
  constexpr int buffers = 6, very_often = 1'000'000;
  const TestStream stuck(backend), other(backend);
  const Pinned source(backend, bytes), back(backend, bytes);
  const TestEvent done(backend);
  source.fill(5);
  std::vector<void*> first(buffers), second(buffers);
  for (void*& memory : first) CONTRACT_OK(backend, allocate_device(large, stuck, &memory));
  stuck.synchronize();
  Gate gate(backend, stuck);
  for (void* const memory : first) CONTRACT_OK(backend, free_device(memory, stuck));
  for (void*& memory : second) {
    CONTRACT_OK(backend, allocate_device(large, other, &memory));
    CONTRACT_OK(backend, copy(memory, source.data(), bytes, CopyKind::host_to_device, other));
    CONTRACT_OK(backend, copy(back.data(), memory, bytes, CopyKind::device_to_host, other));
  }
  CONTRACT_OK(backend, record_event(done, other));
  StatusCode code = StatusCode::not_ready;  // asked, and not waited for: where this fails it would wait for ever
  for (int i = 0; i != very_often && code == StatusCode::not_ready; ++i) code = backend.query_event(done).code;
  CHECK(code == StatusCode::ok);
  gate.open();
  for (void* const memory : second) CONTRACT_OK(backend, free_device(memory, other));
  other.synchronize();
  CHECK(back.holds(5));
  stuck.synchronize();
}

CONTRACT_CASE("a stream that was created does not wait for the legacy default stream, nor that for it [22]") {
  const TestStream made(backend);
  const TestEvent event(backend);
  for (const bool legacy_is_stuck : {true, false}) {
    const StreamHandle stuck = legacy_is_stuck ? nullptr : static_cast<StreamHandle>(made);
    const StreamHandle other = legacy_is_stuck ? static_cast<StreamHandle>(made) : nullptr;
    Gate gate(backend, stuck);
    CONTRACT_OK(backend, record_event(event, other));
    CONTRACT_OK(backend, synchronize_event(event));
    gate.open();
    CONTRACT_OK(backend, synchronize_stream(stuck));
  }
}

CONTRACT_CASE("a priority beyond the device's range is at its end, and the lower number comes first [23]") {
  StreamHandle first = nullptr, last = nullptr;
  CONTRACT_OK(backend, create_stream(&first, -1000));
  CONTRACT_OK(backend, create_stream(&last, 1000));
  int urgent = 1, idle = 1;
  CONTRACT_OK(backend, stream_priority(first, &urgent));
  CONTRACT_OK(backend, stream_priority(last, &idle));
  CHECK(urgent > -1000);
  CHECK(idle < 1000);
  CHECK(urgent <= idle);
  CONTRACT_OK(backend, destroy_stream(first));
  CONTRACT_OK(backend, destroy_stream(last));
}

CONTRACT_CASE("who synchronises with an event waits for its point [36]") {
  const TestStream stream(backend);
  const TestEvent event(backend);
  std::atomic<bool> opened{false};
  Gate gate(backend, stream);
  CONTRACT_OK(backend, record_event(event, stream));
  std::thread waiter([&] {
    CHECK(backend.synchronize_event(event).ok());
    CHECK(opened);
  });
  CONTRACT_CODE(backend, query_event(event), not_ready);
  opened = true;
  gate.open();
  waiter.join();
}

CONTRACT_CASE("an event behind all of the device waits for every stream, for nothing later, and holds nobody up [55]") {
  const TestStream stuck(backend), later(backend), waits(backend);
  const TestEvent of_later(backend), all(backend), behind(backend);
  CONTRACT_OK(backend, record_device(all));
  CONTRACT_OK(backend, synchronize_event(all));  // nothing goes on
  for (StreamHandle stream : {StreamHandle(stuck), StreamHandle(), StreamHandle(reinterpret_cast<void*>(2))}) {
    std::atomic<bool> opened{false};
    Gate gate(backend, stream);
    CONTRACT_OK(backend, record_device(all));
    CONTRACT_OK(backend, wait_event(waits, all));
    CONTRACT_OK(backend, record_event(behind, waits));
    CONTRACT_OK(backend, record_event(of_later, later));
    later.synchronize();
    for (int i = 0; i < 1000; ++i) CONTRACT_CODE(backend, query_event(all), not_ready);
    CONTRACT_CODE(backend, query_event(behind), not_ready);
    std::thread waiting([&] {
      CHECK(backend.synchronize_event(all).ok());
      CHECK(opened);
    });
    opened = true;
    gate.open();
    waiting.join();
    CONTRACT_OK(backend, synchronize_event(behind));
  }
}

CONTRACT_CASE("an event behind all of the device is behind the work in a graph, and behind what waits for it [55]") {
  const TestStream stuck(backend), waits(backend);
  const TestEvent first(backend), all(backend);
  Gate gate(backend, stuck);
  CONTRACT_OK(backend, record_event(first, stuck));
  CONTRACT_OK(backend, wait_event(waits, first));  // its last operation is a wait
  CONTRACT_OK(backend, record_device(all));
  CONTRACT_CODE(backend, query_event(all), not_ready);
  gate.open();
  CONTRACT_OK(backend, synchronize_event(all));
  CONTRACT_OK(backend, record_device(all));
  CONTRACT_OK(backend, synchronize_event(all));
}

CONTRACT_CASE("the time between two events is known once both are done, of events that measure time [37]") {
  const TestStream stream(backend);
  EventHandle from = nullptr, to = nullptr;
  CONTRACT_OK(backend, create_event(&from, EventFlags{.timing = true}));
  CONTRACT_OK(backend, create_event(&to, EventFlags{.timing = true}));
  std::chrono::nanoseconds time{-1};
  CONTRACT_OK(backend, record_event(from, stream));
  Gate gate(backend, stream);
  CONTRACT_OK(backend, record_event(to, stream));
  CONTRACT_CODE(backend, elapsed(from, to, &time), not_ready);
  CHECK(time.count() == -1);
  gate.open();
  stream.synchronize();
  CONTRACT_OK(backend, elapsed(from, to, &time));
  CHECK(time.count() >= 0);
  const TestEvent untimed(backend);
  CONTRACT_OK(backend, record_event(untimed, stream));
  stream.synchronize();
  CONTRACT_CODE(backend, elapsed(from, untimed, &time), invalid);
  CONTRACT_OK(backend, destroy_event(from));
  CONTRACT_OK(backend, destroy_event(to));
}

TEST_CASE("who unpins does not wait any longer for a simulated device that has ended") {
  auto gone = std::make_unique<thole::detail::SimulatedBackend>(thole::SimulationOptions{});
  thole::detail::SimulatedBackend backend({});
  const Pages pages(Pages::page);
  CONTRACT_OK(backend, register_host(pages.data(), Pages::page));
  StreamHandle stuck = nullptr;
  CONTRACT_OK(*gone, create_stream(&stuck));
  gone->hold(stuck);
  Count count;
  CONTRACT_OK(*gone, launch_host_function(stuck, &Count::add, &count));
  std::thread other([&] { CHECK(backend.unregister_host(pages.data()).ok()); });
  while (backend.blocked_callers() != 1) std::this_thread::yield();
  gone.reset();
  other.join();
  CHECK(count.value() == 0);
}
