// What only the simulated device does: it can be stepped, so each state in between is seen; it has a clock of its own,
// an order that a seed picks, a late mode, and handles that it refuses where CUDA would use what they no longer point
// to.

#include <thread>

#include "backend/simulated/backend.hpp"
#include "contract.hpp"

using namespace contract;
using thole::SimulatedCall;
using thole::SimulationOptions;
using thole::detail::SimulatedBackend;

namespace {

constexpr std::size_t bytes = 64 * Pages::page;

SimulationOptions stepped(std::uint64_t seed = 0) {
  SimulationOptions options;
  options.stepped = true;
  options.seed = seed;
  return options;
}

}  // namespace

TEST_CASE("on a stepped device a copy moves its bytes in the step that completes it, not before") {
  SimulatedBackend backend(stepped());
  const Pinned source(backend, bytes);
  const Pinned back(backend, bytes);
  const TestStream stream(backend);
  void* device = nullptr;
  CONTRACT_OK(backend, allocate_device(bytes, stream, &device));
  source.fill(1);
  CONTRACT_OK(backend, copy(device, source.data(), bytes, CopyKind::host_to_device, stream));
  CONTRACT_OK(backend, copy(back.data(), device, bytes, CopyKind::device_to_host, stream));
  CHECK(backend.pending(stream) == 3);
  CHECK(backend.step(stream, 1) == 1);
  source.fill(2);  // what a lifetime bug does: it shows as a wrong payload
  CHECK(backend.step(stream, 1) == 1);
  source.fill(3);
  CHECK(back.holds(0));
  CHECK(backend.step(stream, 10) == 1);
  CHECK(back.holds(2));
  CHECK(backend.pending() == 0);
  CONTRACT_OK(backend, free_device(device, stream));
  CHECK(backend.run_all() == 1);
}

TEST_CASE("a pageable source is staged when the copy is enqueued") {
  SimulatedBackend backend(stepped());
  const Pages source(bytes);
  const Pinned back(backend, bytes);
  const TestStream stream(backend);
  source.fill(1);
  CONTRACT_OK(backend, copy(back.data(), source.data(), bytes, CopyKind::host_to_host, stream));
  source.fill(2);
  CHECK(back.holds(0));
  CHECK(backend.run_all() == 1);
  CHECK(back.holds(1));
}

TEST_CASE("a step stops at a wait whose event is not complete") {
  SimulatedBackend backend(stepped());
  const TestStream first(backend);
  const TestStream second(backend);
  const TestEvent event(backend);
  Count count;
  CONTRACT_OK(backend, launch_host_function(first, &Count::add, &count));
  CONTRACT_OK(backend, record_event(event, first));
  CONTRACT_OK(backend, wait_event(second, event));
  CONTRACT_OK(backend, launch_host_function(second, &Count::add, &count));
  CHECK(backend.step(second, 2) == 0);
  CHECK(backend.step(first, 2) == 2);
  CHECK(backend.step(second, 5) == 2);
  CHECK(count.value() == 2);
}

TEST_CASE("a held stream is left out of run_all and step_any; release runs it and what follows at once") {
  SimulatedBackend backend(stepped());
  const TestStream held(backend);
  const TestStream other(backend);
  Count count;
  backend.hold(held);
  CONTRACT_OK(backend, launch_host_function(held, &Count::add, &count));
  CONTRACT_OK(backend, launch_host_function(other, &Count::add, &count));
  CHECK(backend.step_any());
  CHECK(!backend.step_any());
  CHECK(backend.run_all() == 0);
  CHECK(backend.pending(held) == 1);
  CHECK(count.value() == 1);
  backend.release(held);
  CHECK(count.value() == 2);
  CONTRACT_OK(backend, launch_host_function(held, &Count::add, &count));
  CHECK(count.value() == 3);
}

TEST_CASE("a released stream goes on by itself when the event that it waits for completes") {
  SimulatedBackend backend(stepped());
  const TestStream first(backend);
  const TestStream second(backend);
  const TestEvent event(backend);
  Count count;
  backend.release(second);
  CONTRACT_OK(backend, record_event(event, first));
  CONTRACT_OK(backend, wait_event(second, event));
  CONTRACT_OK(backend, launch_host_function(second, &Count::add, &count));
  CHECK(count.value() == 0);
  CHECK(backend.step(first, 1) == 1);
  CHECK(count.value() == 1);
}

TEST_CASE("a device that runs by itself can be held, stepped and released") {
  SimulatedBackend backend({});
  const TestStream stream(backend);
  const TestEvent event(backend);
  Count count;
  backend.hold(stream);
  CONTRACT_OK(backend, launch_host_function(stream, &Count::add, &count));
  CONTRACT_OK(backend, launch_host_function(stream, &Count::add, &count));
  CONTRACT_OK(backend, record_event(event, stream));
  CHECK(backend.step(stream, 1) == 1);
  CHECK(count.value() == 1);
  CONTRACT_CODE(backend, query_event(event), not_ready);
  backend.release(stream);
  CONTRACT_OK(backend, synchronize_event(event));
  CHECK(count.value() == 2);
}

TEST_CASE("a destroyed stream's work is still run by run_all, also when it was held") {
  SimulatedBackend backend(stepped());
  Count count;
  TestStream stream(backend);
  backend.hold(stream);
  CONTRACT_OK(backend, launch_host_function(stream, &Count::add, &count));
  stream.destroy();
  CHECK(backend.pending() == 1);
  CHECK(backend.run_all() == 1);
  CHECK(count.value() == 1);
}

TEST_CASE("the handle of a destroyed stream is used again by the next one") {
  SimulatedBackend backend(stepped());
  TestStream first(backend);
  const StreamHandle handle = first;
  first.destroy();
  const TestStream second(backend);
  CHECK(static_cast<StreamHandle>(second) == handle);
}

TEST_CASE("a handle that means nothing is refused") {
  SimulatedBackend backend(stepped());
  TestStream stream(backend);
  TestEvent event(backend);
  const StreamHandle old_stream = stream;
  const EventHandle old_event = event;
  stream.destroy();
  event.destroy();
  CONTRACT_CODE(backend, synchronize_stream(old_stream), invalid);
  CONTRACT_CODE(backend, query_event(old_event), invalid);
  CONTRACT_CODE(backend, destroy_stream(old_stream), invalid);
  CONTRACT_CODE(backend, destroy_event(old_event), invalid);
  CONTRACT_CODE(backend, destroy_graph(nullptr), invalid);
}

TEST_CASE("a seed gives one order, and seeds give several") {
  const auto order = [](std::uint64_t seed) {
    struct Note {
      std::string* log;
      char letter;
    };
    std::string log;
    std::vector<Note> notes;
    for (char letter = 'a'; letter < 'i'; ++letter) notes.push_back({&log, letter});
    SimulatedBackend backend(stepped(seed));
    const TestStream first(backend);
    const TestStream second(backend);
    for (std::size_t i = 0; i < notes.size(); ++i) {
      const auto write = [](void* argument) {
        const auto& note = *static_cast<Note*>(argument);
        note.log->push_back(note.letter);
      };
      CONTRACT_OK(backend, launch_host_function(i % 2 == 0 ? first : second, write, &notes[i]));
    }
    CHECK(backend.run_all() == notes.size());
    return log;
  };
  bool differ = false;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const std::string log = order(seed);
    CHECK(log == order(seed));
    CHECK(log.find('a') < log.find('c'));
    CHECK(log.find('b') < log.find('d'));
    differ = differ || log != order(0);
  }
  CHECK(differ);
}

TEST_CASE("blocked callers are counted, and a step lets them go") {
  SimulatedBackend backend(stepped());
  const Pages back(Pages::page);
  const TestStream stream(backend);
  const OnDevice device(backend, Pages::page, stream);
  const TestEvent event(backend);
  CONTRACT_OK(backend, record_event(event, stream));
  Status on_stream;
  Status on_event;
  Status on_copy;
  std::thread first([&] { on_stream = backend.synchronize_stream(stream); });
  std::thread second([&] { on_event = backend.synchronize_event(event); });
  std::thread third(
      [&] { on_copy = backend.copy(back.data(), device.data(), Pages::page, CopyKind::device_to_host, stream); });
  while (backend.blocked_callers() != 3) std::this_thread::yield();
  backend.run_all();
  first.join();
  second.join();
  third.join();
  CHECK(on_stream.ok());
  CHECK(on_event.ok());
  CHECK(on_copy.ok());
  CHECK(backend.blocked_callers() == 0);
}

TEST_CASE("synchronising a stepped stream that only allocates needs no step") {
  SimulatedBackend backend(stepped());
  const TestStream stream(backend);
  {
    const OnDevice device(backend, bytes, stream);
    CHECK(backend.pending(stream) == 1);
    stream.synchronize();
    CHECK(backend.pending(stream) == 0);
  }
  CHECK(backend.run_all() == 1);
  CHECK(backend.device_bytes() == 0);
}

TEST_CASE("the clock adds latency and bytes over bandwidth on each stream, and a wait carries it over") {
  SimulationOptions options = stepped();
  options.latency = std::chrono::microseconds(10);
  options.bytes_per_second = 1e9;
  SimulatedBackend backend(options);
  const Pinned source(backend, 1'000 * Pages::page);
  const TestStream first(backend);
  const TestStream second(backend);
  const TestEvent event(backend);
  const OnDevice device(backend, source.bytes(), first);
  CONTRACT_OK(backend, copy(device.data(), source.data(), source.bytes(), CopyKind::host_to_device, first));
  CONTRACT_OK(backend, record_event(event, first));
  CONTRACT_OK(backend, wait_event(second, event));
  CHECK(backend.now().count() == 0);
  backend.run_all();
  // On the first stream an allocation and the copy's 4,096,000 ns; events and waits take no time.
  CHECK(backend.now().count() == 2 * 10'000 + 4'096'000);
  CONTRACT_OK(backend, launch_host_function(
                           second, [](void*) {}, nullptr));
  backend.run_all();
  CHECK(backend.now().count() == 3 * 10'000 + 4'096'000);
}

TEST_CASE("two simulated devices share pinned memory, events and captures, and no memory of their own") {
  SimulatedBackend backend(stepped());
  SimulatedBackend other(stepped());
  const Pinned source(backend, bytes);
  source.fill(9);
  const Pinned back(other, bytes);
  const TestStream stream(backend);
  const TestStream other_stream(other);
  const OnDevice device(backend, bytes, stream);
  const TestEvent event(backend);
  CONTRACT_CODE(other, check_stream(stream), wrong_device);
  CONTRACT_OK(backend, copy(device.data(), source.data(), bytes, CopyKind::host_to_device, stream));
  CONTRACT_OK(backend, record_event(event, stream));
  CONTRACT_OK(other, wait_event(other_stream, event));
  CONTRACT_OK(other, copy(back.data(), device.data(), bytes, CopyKind::device_to_host, other_stream));
  CHECK(other.run_all() == 0);
  CHECK(backend.run_all() == 3);
  CHECK(other.run_all() == 2);
  CHECK(back.holds(9));
  CHECK(backend.device_bytes() == bytes);
  CHECK(other.device_bytes() == 0);
  CONTRACT_CODE(other, record_event(event, other_stream), invalid);
}

TEST_CASE("a full queue blocks who adds to it, until an operation of it is done") {
  SimulationOptions options = stepped();
  options.queue_limit = 4;
  SimulatedBackend backend(options);
  const TestStream stream(backend);
  const TestStream other(backend);
  const TestEvent event(backend);
  Count count;
  std::thread caller([&] {
    for (int i = 0; i < 6; ++i) CONTRACT_OK(backend, launch_host_function(stream, &Count::add, &count));
  });
  for (std::size_t left = 2; left != 0; --left) {
    while (backend.blocked_callers() != 1 || backend.pending(stream) != 4) std::this_thread::yield();
    CONTRACT_OK(backend, record_event(event, other));  // other streams have queues of their own
    CHECK(backend.step(other, 1) == 1);
    CHECK(backend.step(stream, 1) == 1);
  }
  caller.join();
  CHECK(backend.pending(stream) == 4);
  CHECK(backend.run_all() == 4);
  CHECK(count.value() == 6);
}

TEST_CASE("a device that runs by itself takes 1,000 operations behind a stuck one, and a loss lets the caller go") {
  SimulatedBackend backend({.loss_is_final = false});
  StreamHandle stream = nullptr;
  CONTRACT_OK(backend, create_stream(&stream));
  backend.hold(stream);
  Count count;
  Status status;
  std::thread caller([&] {
    while (status.ok()) status = backend.launch_host_function(stream, &Count::add, &count);
  });
  while (backend.blocked_callers() != 1) std::this_thread::yield();
  CHECK(backend.pending(stream) == 1'000);
  backend.lose_device();
  caller.join();
  CHECK(status.code == StatusCode::device_lost);
  CHECK(count.value() == 0);
}

TEST_CASE("all copies of one direction share one link, and the directions have one each") {
  SimulationOptions options = stepped();
  options.bytes_per_second = 1e9;
  SimulatedBackend backend(options);
  const Pinned host(backend, 1'000 * Pages::page);
  const TestStream first(backend);
  const TestStream second(backend);
  const OnDevice there(backend, host.bytes(), first);
  const OnDevice also_there(backend, host.bytes(), second);
  backend.run_all();
  CONTRACT_OK(backend, copy(there.data(), host.data(), host.bytes(), CopyKind::host_to_device, first));
  CONTRACT_OK(backend, copy(also_there.data(), host.data(), host.bytes(), CopyKind::host_to_device, second));
  backend.run_all();
  CHECK(backend.now().count() == 2 * 4'096'000);
  CONTRACT_OK(backend, copy(host.data(), there.data(), host.bytes(), CopyKind::device_to_host, first));
  CONTRACT_OK(backend, copy(also_there.data(), host.data(), host.bytes(), CopyKind::host_to_device, second));
  backend.run_all();
  CHECK(backend.now().count() == 3 * 4'096'000);
}

TEST_CASE("in late mode nothing completes until somebody waits for it or asks for it, in other streams, too") {
  SimulationOptions options;
  options.late = std::chrono::hours(24 * 365);
  SimulatedBackend backend(options);
  const Pinned source(backend, bytes);
  const Pinned back(backend, bytes);
  const TestStream first(backend);
  const TestStream second(backend);
  const TestEvent event(backend);
  const OnDevice device(backend, bytes, first);
  for (const bool asked : {false, true}) {
    CAPTURE(asked);
    source.fill(1);
    CONTRACT_OK(backend, copy(device.data(), source.data(), bytes, CopyKind::host_to_device, first));
    CONTRACT_OK(backend, record_event(event, first));
    CONTRACT_OK(backend, wait_event(second, event));
    CONTRACT_OK(backend, copy(back.data(), device.data(), bytes, CopyKind::device_to_host, second));
    CONTRACT_OK(backend, record_event(event, second));
    source.fill(2);  // the mistake that a fast device hides
    if (asked) {
      while (backend.query_event(event).code == StatusCode::not_ready) std::this_thread::yield();
    } else {
      second.synchronize();
    }
    CHECK(back.holds(2));
    back.fill(0);
  }
}

TEST_CASE("in late mode an operation completes in the end, though nobody asks, and so does a device") {
  SimulationOptions options;
  options.late = std::chrono::nanoseconds(1);
  Count count;
  {
    SimulatedBackend backend(options);
    const TestStream stream(backend);
    CONTRACT_OK(backend, launch_host_function(stream, &Count::add, &count));
    count.wait_for(1);
  }
  options.late = std::chrono::hours(24 * 365);
  {
    SimulatedBackend backend(options);
    const TestStream stream(backend);
    CONTRACT_OK(backend, launch_host_function(stream, &Count::add, &count));
  }
  CHECK(count.value() == 2);
}
