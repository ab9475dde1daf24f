// Graphs: launching, destroying in any order, and what they keep alive.

#include <set>

#include "contract.hpp"

using namespace contract;

namespace {

constexpr std::size_t bytes = std::size_t{1} << 20;

/// The graph of one host function that counts, which keeps `retained` alive.
GraphHandle counting_graph(DeviceBackend& backend, StreamHandle stream, Count& ran, Count* retained) {
  CONTRACT_OK(backend, begin_capture(stream, CaptureMode::relaxed));
  CONTRACT_OK(backend, launch_host_function(stream, &Count::add, &ran));
  if (retained != nullptr) {
    CaptureInfo info;
    CONTRACT_OK(backend, capture_info(stream, &info));
    CONTRACT_OK(backend, retain_in_graph(info.graph, retained, &Count::add));
  }
  return end_capture(backend, stream);
}

}  // namespace

CONTRACT_CASE("captured work runs when the graph is launched, each time with what the memory then holds") {
  const Pinned source(backend, bytes);
  const Pinned back(backend, bytes);
  const TestStream stream(backend);
  const OnDevice device(backend, bytes, stream);
  CONTRACT_OK(backend, begin_capture(stream, CaptureMode::global));
  CONTRACT_OK(backend, copy(device.data(), source.data(), bytes, CopyKind::host_to_device, stream));
  CONTRACT_OK(backend, copy(back.data(), device.data(), bytes, CopyKind::device_to_host, stream));
  const TestGraph graph(backend, end_capture(backend, stream));
  stream.synchronize();
  CHECK(back.holds(0));
  for (unsigned char round = 1; round <= 5; ++round) {
    source.fill(round);
    graph.launch(stream);
    stream.synchronize();
    CHECK(back.holds(round));
  }
}

CONTRACT_CASE("a launch is in stream order and may go to any stream [52]") {
  const Pinned source(backend, bytes);
  const Pinned back(backend, bytes);
  const TestStream stream(backend);
  const TestStream other(backend);
  const OnDevice device(backend, bytes, stream);
  source.fill(6);
  CONTRACT_OK(backend, begin_capture(stream, CaptureMode::global));
  CONTRACT_OK(backend, copy(back.data(), device.data(), bytes, CopyKind::device_to_host, stream));
  const TestGraph graph(backend, end_capture(backend, stream));
  const TestEvent allocated(backend);
  CONTRACT_OK(backend, record_event(allocated, stream));
  CONTRACT_OK(backend, wait_event(other, allocated));
  CONTRACT_OK(backend, copy(device.data(), source.data(), bytes, CopyKind::host_to_device, other));
  graph.launch(other);
  other.synchronize();
  CHECK(back.holds(6));
}

CONTRACT_CASE("an executable works after its graph is gone") {
  const TestStream stream(backend);
  Count ran;
  TestGraph graph(backend, counting_graph(backend, stream, ran, nullptr));
  graph.destroy_graph();
  for (int i = 0; i < 10; ++i) graph.launch(stream);
  stream.synchronize();
  CHECK(ran.value() == 10);
}

CONTRACT_CASE("launched work completes after graph and executable are gone [54]") {
  const Pinned source(backend, bytes);
  const Pinned back(backend, bytes);
  const TestStream stream(backend);
  const OnDevice device(backend, bytes, stream);
  source.fill(8);
  CONTRACT_OK(backend, begin_capture(stream, CaptureMode::global));
  CONTRACT_OK(backend, copy(device.data(), source.data(), bytes, CopyKind::host_to_device, stream));
  CONTRACT_OK(backend, copy(back.data(), device.data(), bytes, CopyKind::device_to_host, stream));
  TestGraph graph(backend, end_capture(backend, stream));
  Gate gate(backend, stream);
  graph.launch(stream);
  graph.destroy_exec();
  graph.destroy_graph();
  gate.open();
  stream.synchronize();
  CHECK(back.holds(8));
}

CONTRACT_CASE("what a graph retains is released once, when graph and executable are gone, in either order [46]") {
  for (const bool exec_first : {false, true}) {
    const TestStream stream(backend);
    Count ran;
    Count released;
    TestGraph graph(backend, counting_graph(backend, stream, ran, &released));
    graph.launch(stream);
    stream.synchronize();
    CHECK(released.value() == 0);
    exec_first ? graph.destroy_exec() : graph.destroy_graph();
    stream.synchronize();
    CHECK(released.value() == 0);
    exec_first ? graph.destroy_graph() : graph.destroy_exec();
    released.wait_for(1);
    stream.synchronize();
    CHECK(released.value() == 1);
    CHECK(ran.value() == 1);
  }
}

CONTRACT_CASE("what a graph retains stays until the launched work is done") {
  const TestStream stream(backend);
  Count ran;
  Count released;
  TestGraph graph(backend, counting_graph(backend, stream, ran, &released));
  Gate gate(backend, stream);
  graph.launch(stream);
  graph.launch(stream);
  graph.destroy_graph();
  graph.destroy_exec();
  CHECK(released.value() == 0);
  gate.open();
  stream.synchronize();
  released.wait_for(1);
  CHECK(released.value() == 1);
  CHECK(ran.value() == 2);
}

CONTRACT_CASE("a graph that is never instantiated releases what it retains") {
  const TestStream stream(backend);
  Count ran;
  Count released;
  const GraphHandle graph = counting_graph(backend, stream, ran, &released);
  CHECK(released.value() == 0);
  CONTRACT_OK(backend, destroy_graph(graph));
  released.wait_for(1);
  CHECK(ran.value() == 0);
}

CONTRACT_CASE("an invalidated capture releases what it had retained") {
  const TestStream stream(backend);
  Count released;
  CONTRACT_OK(backend, begin_capture(stream, CaptureMode::relaxed));
  CONTRACT_OK(backend, retain_in_graph(stream.capture().graph, &released, &Count::add));
  CONTRACT_CODE(backend, synchronize_stream(stream), capture);
  GraphHandle graph = nullptr;
  CONTRACT_CODE(backend, end_capture(stream, &graph), capture);
  released.wait_for(1);
  CHECK(released.value() == 1);
}

CONTRACT_CASE("both branches see what comes before their fork, and what comes after their join sees both [53]") {
  const Pinned source(backend, bytes), by_first(backend, bytes), by_second(backend, bytes);
  const TestStream first(backend), second(backend);
  const OnDevice from(backend, bytes, first), one(backend, bytes, first), two(backend, bytes, first);
  const TestEvent fork(backend), join(backend);
  CONTRACT_OK(backend, begin_capture(first, CaptureMode::global));
  CONTRACT_OK(backend, copy(from.data(), source.data(), bytes, CopyKind::host_to_device, first));
  CONTRACT_OK(backend, record_event(fork, first));
  CONTRACT_OK(backend, wait_event(second, fork));
  CONTRACT_OK(backend, copy(one.data(), from.data(), bytes, CopyKind::device_to_device, first));
  CONTRACT_OK(backend, copy(two.data(), from.data(), bytes, CopyKind::device_to_device, second));
  CONTRACT_OK(backend, record_event(join, second));
  CONTRACT_OK(backend, wait_event(first, join));
  CONTRACT_OK(backend, copy(by_first.data(), one.data(), bytes, CopyKind::device_to_host, first));
  CONTRACT_OK(backend, copy(by_second.data(), two.data(), bytes, CopyKind::device_to_host, first));
  const TestGraph graph(backend, end_capture(backend, first));
  for (unsigned char round = 1; round <= 50; ++round) {
    source.fill(round);
    graph.launch(first);
    first.synchronize();
    CHECK(by_first.holds(round));
    CHECK(by_second.holds(round));
  }
}

CONTRACT_CASE("a branch that waits for a point of another sees, in each launch, what comes before that point [53]") {
  const Pinned source(backend, bytes), back(backend, bytes);
  const TestStream first(backend), second(backend);
  const OnDevice device(backend, bytes, first);
  const TestEvent fork(backend), between(backend), join(backend);
  CONTRACT_OK(backend, begin_capture(first, CaptureMode::global));
  CONTRACT_OK(backend, record_event(fork, first));
  CONTRACT_OK(backend, wait_event(second, fork));
  CONTRACT_OK(backend, copy(device.data(), source.data(), bytes, CopyKind::host_to_device, first));
  CONTRACT_OK(backend, record_event(between, first));
  CONTRACT_OK(backend, wait_event(second, between));
  CONTRACT_OK(backend, copy(back.data(), device.data(), bytes, CopyKind::device_to_host, second));
  CONTRACT_OK(backend, record_event(join, second));
  CONTRACT_OK(backend, wait_event(first, join));
  const TestGraph graph(backend, end_capture(backend, first));
  for (unsigned char round = 1; round <= 50; ++round) {
    source.fill(round);
    graph.launch(first);
    first.synchronize();
    CHECK(back.holds(round));
  }
}

CONTRACT_CASE("branches of a graph come between fork and join, in an order of their own [53]") {
  struct Note {
    std::string* log;
    char letter;
  };
  const auto write = [](void* argument) {
    const auto& note = *static_cast<Note*>(argument);
    note.log->push_back(note.letter);
  };
  std::string log;
  Note notes[] = {{&log, 'f'}, {&log, 'a'}, {&log, 'b'}, {&log, 'x'}, {&log, 'j'}};
  const TestStream first(backend);
  const TestStream second(backend);
  const TestEvent fork(backend);
  const TestEvent join(backend);
  CONTRACT_OK(backend, begin_capture(first, CaptureMode::global));
  CONTRACT_OK(backend, launch_host_function(first, write, &notes[0]));
  CONTRACT_OK(backend, record_event(fork, first));
  CONTRACT_OK(backend, wait_event(second, fork));
  CONTRACT_OK(backend, launch_host_function(second, write, &notes[3]));
  CONTRACT_OK(backend, record_event(join, second));
  CONTRACT_OK(backend, launch_host_function(first, write, &notes[1]));
  CONTRACT_OK(backend, launch_host_function(first, write, &notes[2]));
  CONTRACT_OK(backend, wait_event(first, join));
  CONTRACT_OK(backend, launch_host_function(first, write, &notes[4]));
  const TestGraph graph(backend, end_capture(backend, first));
  std::set<std::string> orders;
  for (int round = 0; round < 50; ++round) {
    log.clear();
    graph.launch(first);
    first.synchronize();
    orders.insert(log);
  }
  for (const auto& order : orders) CHECK((order == "fxabj" || order == "faxbj" || order == "fabxj"));
}

CONTRACT_CASE(
    "a launch on a stream that captures is refused and ends the capture, whatever the thread's mode [79], and the "
    "stream is known still [81]") {
  const TestStream stream(backend), other(backend);
  Count count;
  CONTRACT_OK(backend, begin_capture(other, CaptureMode::relaxed));
  CONTRACT_OK(backend, launch_host_function(other, &Count::add, &count));
  const TestGraph graph(backend, end_capture(backend, other));
  for (const CaptureMode mode : {CaptureMode::global, CaptureMode::thread_local_, CaptureMode::relaxed}) {
    CONTRACT_OK(backend, begin_capture(stream, mode));
    CONTRACT_CODE(backend, launch_graph(graph, stream), capture);
    CaptureInfo info;
    CONTRACT_OK(backend, capture_info(stream, &info));
    CHECK(info.state == CaptureInfo::State::invalidated);
    CONTRACT_OK(backend, check_stream(stream));
    GraphHandle made = nullptr;
    CONTRACT_CODE(backend, end_capture(stream, &made), capture);
    CHECK(made == nullptr);
  }
  graph.launch(stream);
  count.wait_for(1);
  stream.synchronize();
}

CONTRACT_CASE("a graph says how many nodes it has [80]") {
  const TestStream stream(backend);
  Count count;
  for (std::size_t nodes = 0; nodes != 4; ++nodes) {
    CONTRACT_OK(backend, begin_capture(stream, CaptureMode::relaxed));
    for (std::size_t i = 0; i != nodes; ++i) CONTRACT_OK(backend, launch_host_function(stream, &Count::add, &count));
    GraphHandle graph = nullptr;
    CONTRACT_OK(backend, end_capture(stream, &graph));
    std::size_t said = 99;
    CONTRACT_OK(backend, graph_nodes(graph, &said));
    CHECK(said == nodes);
    CONTRACT_OK(backend, destroy_graph(graph));
  }
}
