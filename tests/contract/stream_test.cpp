// Streams.

#include <deque>
#include <set>
#include <thread>

#include "contract.hpp"

using namespace contract;

namespace {

constexpr std::size_t bytes = std::size_t{1} << 20;

std::uint64_t id_of(DeviceBackend& backend, StreamHandle stream) {
  std::uint64_t id = 0;
  CONTRACT_OK(backend, stream_id(stream, &id));
  return id;
}

}  // namespace

CONTRACT_CASE("a stream's id is never used again, though its handle may be [27]") {
  std::set<std::uint64_t> ids;
  constexpr std::size_t rounds = 50;
  for (std::size_t round = 0; round < rounds; ++round) {
    const TestStream stream(backend);
    const TestStream beside(backend);
    ids.insert(id_of(backend, stream));
    ids.insert(id_of(backend, beside));
    CHECK(id_of(backend, stream) == id_of(backend, stream));
  }
  CHECK(ids.size() == 2 * rounds);
}

CONTRACT_CASE("a device knows its streams, and the default ones are its own [28]") {
  const TestStream stream(backend);
  CONTRACT_OK(backend, check_stream(stream));
  for (const std::uintptr_t handle : {0U, 1U, 2U})
    CONTRACT_OK(backend, check_stream(reinterpret_cast<StreamHandle>(handle)));
}

CONTRACT_CASE("the legacy default stream has two names and is not the per-thread one") {
  void* const legacy = reinterpret_cast<void*>(1);
  void* const per_thread = reinterpret_cast<void*>(2);
  CHECK(id_of(backend, nullptr) == id_of(backend, legacy));
  CHECK(id_of(backend, nullptr) != id_of(backend, per_thread));
  CHECK(id_of(backend, per_thread) == id_of(backend, per_thread));
}

CONTRACT_CASE("the default streams do work") {
  const Pinned source(backend, bytes);
  const Pinned back(backend, bytes);
  unsigned char value = 0;
  for (const std::uintptr_t handle : {0U, 1U, 2U}) {
    const auto stream = reinterpret_cast<StreamHandle>(handle);
    source.fill(++value);
    {
      const OnDevice device(backend, bytes, stream);
      CONTRACT_OK(backend, copy(device.data(), source.data(), bytes, CopyKind::host_to_device, stream));
      CONTRACT_OK(backend, copy(back.data(), device.data(), bytes, CopyKind::device_to_host, stream));
    }
    CONTRACT_OK(backend, synchronize_stream(stream));
    CHECK(back.holds(value));
  }
}

CONTRACT_CASE("synchronising a stream waits for all work that it had [25]") {
  const TestStream stream(backend);
  Count done;
  Gate gate(backend, stream);
  for (int i = 0; i < 100; ++i) CONTRACT_OK(backend, launch_host_function(stream, &Count::add, &done));
  int seen = 0;
  Status status;
  std::thread waiter([&] {
    status = backend.synchronize_stream(stream);
    seen = done.value();
  });
  CHECK(done.value() == 0);
  gate.open();
  waiter.join();
  CONTRACT_OK(backend, synchronize_stream(stream));
  CHECK(status.ok());
  CHECK(seen == 100);
}

CONTRACT_CASE("a destroyed stream's work still completes, and its events stay valid [24]") {
  const Pinned source(backend, bytes);
  const Pinned back(backend, bytes);
  const TestStream other(backend);
  const OnDevice device(backend, bytes, other);
  other.synchronize();
  const TestEvent after(backend);
  source.fill(4);
  TestStream stream(backend);
  Gate gate(backend, stream);
  CONTRACT_OK(backend, copy(device.data(), source.data(), bytes, CopyKind::host_to_device, stream));
  CONTRACT_OK(backend, copy(back.data(), device.data(), bytes, CopyKind::device_to_host, stream));
  CONTRACT_OK(backend, record_event(after, stream));
  stream.destroy();
  CONTRACT_CODE(backend, query_event(after), not_ready);
  gate.open();
  CONTRACT_OK(backend, synchronize_event(after));
  CONTRACT_CODE(backend, query_event(after), ok);
  CHECK(back.holds(4));
}

CONTRACT_CASE("host functions run in stream order, between the copies around them, on another thread [70]") {
  struct Seen {
    const unsigned char* back;
    unsigned char value = 0;
    std::thread::id thread;
  };
  const Pinned source(backend, bytes);
  const Pinned back(backend, bytes);
  const TestStream stream(backend);
  const OnDevice device(backend, bytes, stream);
  source.fill(1);
  Seen before{back.data(), 99, {}};
  Seen after{back.data(), 99, {}};
  const auto look = [](void* argument) {
    auto& seen = *static_cast<Seen*>(argument);
    seen.value = *seen.back;
    seen.thread = std::this_thread::get_id();
  };
  CONTRACT_OK(backend, launch_host_function(stream, look, &before));
  CONTRACT_OK(backend, copy(device.data(), source.data(), bytes, CopyKind::host_to_device, stream));
  CONTRACT_OK(backend, copy(back.data(), device.data(), bytes, CopyKind::device_to_host, stream));
  CONTRACT_OK(backend, launch_host_function(stream, look, &after));
  stream.synchronize();
  CHECK(before.value == 0);
  CHECK(after.value == 1);
  CHECK(after.thread != std::this_thread::get_id());
}

CONTRACT_CASE("streams do not wait for each other [71]") {
  const TestStream stuck(backend);
  const TestStream free(backend);
  const Pinned source(backend, bytes);
  const Pinned back(backend, bytes);
  source.fill(5);
  const OnDevice device(backend, bytes, free);
  Gate gate(backend, stuck);
  CONTRACT_OK(backend, copy(device.data(), source.data(), bytes, CopyKind::host_to_device, free));
  CONTRACT_OK(backend, copy(back.data(), device.data(), bytes, CopyKind::device_to_host, free));
  free.synchronize();
  CHECK(back.holds(5));
  gate.open();
  stuck.synchronize();
}

CONTRACT_CASE("streams whose host functions wait for their turn hold no other stream [71]") {
  // As many as a GPU has connections share one with others.
  const int streams = backend.simulated() ? 80 : 8;
  const TestStream stuck(backend), free(backend);
  const TestEvent copied(backend);
  const Pinned source(backend, bytes), back(backend, bytes);
  source.fill(5);
  const OnDevice device(backend, bytes, free);
  free.synchronize();
  std::deque<TestStream> waiting;
  Count count;
  Gate gate(backend, stuck);
  for (int i = 0; i != streams; ++i)
    CONTRACT_OK(backend, launch_host_function(waiting.emplace_back(backend), &Count::add, &count));
  // To the device, since copies from it may share a GPU's connection with a stream that is stuck.
  CONTRACT_OK(backend, copy(device.data(), source.data(), bytes, CopyKind::host_to_device, free));
  CONTRACT_OK(backend, record_event(copied, free));
  CONTRACT_OK(backend, synchronize_event(copied));
  CHECK(count.value() == 0);
  gate.open();
  for (const TestStream& stream : waiting) stream.synchronize();
  CHECK(count.value() == streams);
  CONTRACT_OK(backend, copy(back.data(), device.data(), bytes, CopyKind::device_to_host, free));
  free.synchronize();
  CHECK(back.holds(5));
}

CONTRACT_CASE("the default streams wait for each other [8]") {
  void* const legacy = nullptr;
  void* const per_thread = reinterpret_cast<void*>(2);
  const std::pair<void*, void*> ways[] = {{legacy, per_thread}, {per_thread, legacy}};
  for (const auto& [stuck, waiting] : ways) {
    const TestEvent event(backend);
    Gate gate(backend, stuck);
    CONTRACT_OK(backend, record_event(event, waiting));
    for (int i = 0; i != 1000; ++i) {  // time enough for it to run, if it does not wait
      CONTRACT_CODE(backend, query_event(event), not_ready);
      std::this_thread::yield();
    }
    gate.open();
    CONTRACT_OK(backend, synchronize_event(event));
    CONTRACT_OK(backend, synchronize_stream(stuck));
  }
}

CONTRACT_CASE(
    "the legacy stream is not to be used while a default stream captures, and using it ends the capture [9]") {
  void* const per_thread = reinterpret_cast<void*>(2);
  const TestEvent event(backend);
  CaptureInfo info;
  CONTRACT_OK(backend, begin_capture(per_thread, CaptureMode::relaxed));
  CONTRACT_CODE(backend, capture_info(nullptr, &info), capture);
  CONTRACT_OK(backend, capture_info(per_thread, &info));
  CHECK(info.state == CaptureInfo::State::active);
  CONTRACT_CODE(backend, record_event(event, nullptr), capture);
  CONTRACT_OK(backend, capture_info(per_thread, &info));
  CHECK(info.state == CaptureInfo::State::invalidated);
  GraphHandle graph = nullptr;
  CONTRACT_CODE(backend, end_capture(per_thread, &graph), capture);
  CONTRACT_OK(backend, record_event(event, nullptr));
  CONTRACT_OK(backend, synchronize_event(event));
}
