// Events and waits across streams.

#include "contract.hpp"

using namespace contract;

namespace {

constexpr std::size_t bytes = std::size_t{1} << 20;

}  // namespace

CONTRACT_CASE("an event that was never recorded counts as done [32]") {
  const TestEvent event(backend);
  const TestStream stream(backend);
  CONTRACT_CODE(backend, query_event(event), ok);
  CONTRACT_CODE(backend, synchronize_event(event), ok);
  CONTRACT_CODE(backend, wait_event(stream, event), ok);
  stream.synchronize();
}

CONTRACT_CASE("an event is ready when all work before it is done, and not before [33]") {
  const TestEvent event(backend);
  const TestStream stream(backend);
  Gate gate(backend, stream);
  CONTRACT_OK(backend, record_event(event, stream));
  CONTRACT_CODE(backend, query_event(event), not_ready);
  gate.open();
  CONTRACT_OK(backend, synchronize_event(event));
  CONTRACT_CODE(backend, query_event(event), ok);
}

CONTRACT_CASE("an event does not wait for work enqueued after it") {
  const TestEvent event(backend);
  const TestStream stream(backend);
  CONTRACT_OK(backend, record_event(event, stream));
  Gate gate(backend, stream);
  CONTRACT_OK(backend, synchronize_event(event));
  CONTRACT_CODE(backend, query_event(event), ok);
}

CONTRACT_CASE("recording again replaces the point [30]") {
  const TestEvent event(backend);
  const TestStream stuck(backend);
  const TestStream free(backend);
  Gate gate(backend, stuck);
  CONTRACT_OK(backend, record_event(event, stuck));
  CONTRACT_CODE(backend, query_event(event), not_ready);
  CONTRACT_OK(backend, record_event(event, free));
  CONTRACT_OK(backend, synchronize_event(event));
  CONTRACT_CODE(backend, query_event(event), ok);
  CONTRACT_OK(backend, record_event(event, stuck));
  CONTRACT_CODE(backend, query_event(event), not_ready);
}

CONTRACT_CASE("a stream that waits for an event sees what was done before it") {
  const Pinned source(backend, bytes);
  const Pinned back(backend, bytes);
  const TestStream first(backend);
  const TestStream second(backend);
  const OnDevice device(backend, bytes, first);
  const TestEvent written(backend);
  const TestEvent read(backend);
  source.fill(1);
  Gate gate(backend, first);
  CONTRACT_OK(backend, copy(device.data(), source.data(), bytes, CopyKind::host_to_device, first));
  CONTRACT_OK(backend, record_event(written, first));
  CONTRACT_OK(backend, wait_event(second, written));
  CONTRACT_OK(backend, copy(back.data(), device.data(), bytes, CopyKind::device_to_host, second));
  CONTRACT_OK(backend, record_event(read, second));
  CONTRACT_CODE(backend, query_event(read), not_ready);
  CHECK(back.holds(0));
  source.fill(2);
  gate.open();
  CONTRACT_OK(backend, synchronize_event(read));
  CHECK(back.holds(2));
}

CONTRACT_CASE(
    "a wait is for the point as recorded at the call, also when the event is recorded again or destroyed [38]") {
  for (const bool destroyed : {false, true}) {
    const TestStream stuck(backend);
    const TestStream waiting(backend);
    const TestStream free(backend);
    TestEvent event(backend);
    const TestEvent after(backend);
    Gate gate(backend, stuck);
    CONTRACT_OK(backend, record_event(event, stuck));
    CONTRACT_OK(backend, wait_event(waiting, event));
    CONTRACT_OK(backend, record_event(after, waiting));
    if (destroyed) {
      event.destroy();
    } else {
      CONTRACT_OK(backend, record_event(event, free));
      CONTRACT_OK(backend, synchronize_event(event));
    }
    CONTRACT_CODE(backend, query_event(after), not_ready);
    gate.open();
    CONTRACT_OK(backend, synchronize_event(after));
  }
}

CONTRACT_CASE("a wait does not hold back what was enqueued before it, nor the thread that calls") {
  const TestStream stuck(backend);
  const TestStream waiting(backend);
  const TestEvent event(backend);
  const TestEvent before(backend);
  Gate gate(backend, stuck);
  CONTRACT_OK(backend, record_event(event, stuck));
  CONTRACT_OK(backend, record_event(before, waiting));
  CONTRACT_OK(backend, wait_event(waiting, event));
  CONTRACT_OK(backend, synchronize_event(before));
  gate.open();
  waiting.synchronize();
}

CONTRACT_CASE("an event outlives the stream in which it was recorded") {
  const TestEvent event(backend);
  {
    const TestStream stream(backend);
    CONTRACT_OK(backend, record_event(event, stream));
  }
  CONTRACT_OK(backend, synchronize_event(event));
  CONTRACT_CODE(backend, query_event(event), ok);
}

CONTRACT_CASE("an event that is destroyed before its point is reached takes nothing with it [68]") {
  const TestStream stream(backend);
  Count count;
  TestEvent event(backend);
  Gate gate(backend, stream);
  CONTRACT_OK(backend, record_event(event, stream));
  CONTRACT_OK(backend, launch_host_function(stream, &Count::add, &count));
  event.destroy();
  CHECK(count.value() == 0);  // it did not wait
  gate.open();
  stream.synchronize();
  CHECK(count.value() == 1);
}
