#pragma once

// What the contract's cases share: the backends that answer, and owners of what a case makes, so that a case that fails
// leaves nothing behind for the next.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "backend/backend.hpp"

namespace contract {

using thole::detail::CaptureInfo;
using thole::detail::CaptureMode;
using thole::detail::CopyKind;
using thole::detail::DeviceBackend;
using thole::detail::EventHandle;
using thole::detail::GraphExecHandle;
using thole::detail::GraphHandle;
using thole::detail::HostAccess;
using thole::detail::Status;
using thole::detail::StatusCode;
using thole::detail::StreamHandle;

struct Subject {
  std::string name;
  std::shared_ptr<DeviceBackend> backend;
};

/// The backends under test: the simulated device, and a GPU where one answers. THOLE_DEVICE=simulated leaves out the
/// GPU; THOLE_DEVICE=cuda or cuda:N makes its absence a failure.
const std::vector<Subject>& subjects();

void require(const DeviceBackend& backend, Status status, const char* call, const char* file, int line);
inline StatusCode code_of(Status status) { return status.code; }

/// The call must succeed; what the backend says otherwise is in the report.
#define CONTRACT_OK(backend, call) ::contract::require((backend), (backend).call, #call, __FILE__, __LINE__)
#define CONTRACT_CODE(backend, call, wanted) \
  CHECK(::contract::code_of((backend).call) == ::thole::detail::StatusCode::wanted)

/// A case that holds on every backend: `CONTRACT_CASE("a rule") { ... backend ... }`.
#define CONTRACT_CASE(sentence) CONTRACT_CASE_NAMED(DOCTEST_ANONYMOUS(contract_case_), sentence)
#define CONTRACT_CASE_NAMED(function, sentence)             \
  static void function(::contract::DeviceBackend& backend); \
  TEST_CASE(sentence) {                                     \
    for (const auto& subject : ::contract::subjects()) {    \
      INFO("backend: ", subject.name);                      \
      function(*subject.backend);                           \
    }                                                       \
  }                                                         \
  static void function([[maybe_unused]] ::contract::DeviceBackend& backend)

class TestStream {
 public:
  explicit TestStream(DeviceBackend& backend) : backend_(backend) { CONTRACT_OK(backend_, create_stream(&stream_)); }
  ~TestStream() { destroy(); }
  TestStream(const TestStream&) = delete;
  TestStream& operator=(const TestStream&) = delete;
  operator StreamHandle() const { return stream_; }
  void destroy() {
    if (stream_ == nullptr) return;
    const StatusCode code = backend_.destroy_stream(std::exchange(stream_, nullptr)).code;
    CHECK((code == StatusCode::ok || code == StatusCode::device_lost));
  }
  void synchronize() const { CONTRACT_OK(backend_, synchronize_stream(stream_)); }
  CaptureInfo capture() const {
    CaptureInfo info;
    CONTRACT_OK(backend_, capture_info(stream_, &info));
    return info;
  }

 private:
  DeviceBackend& backend_;
  StreamHandle stream_ = nullptr;
};

class TestEvent {
 public:
  explicit TestEvent(DeviceBackend& backend) : backend_(backend) { CONTRACT_OK(backend_, create_event(&event_)); }
  ~TestEvent() { destroy(); }
  TestEvent(const TestEvent&) = delete;
  TestEvent& operator=(const TestEvent&) = delete;
  operator EventHandle() const { return event_; }
  void destroy() {
    if (event_ != nullptr) CHECK(backend_.destroy_event(std::exchange(event_, nullptr)).ok());
  }

 private:
  DeviceBackend& backend_;
  EventHandle event_ = nullptr;
};

/// Whole pages of host memory, not pinned.
class Pages {
 public:
  static constexpr std::size_t page = 4096;
  explicit Pages(std::size_t bytes);
  ~Pages();
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;
  unsigned char* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }
  void fill(unsigned char value) const;
  bool holds(unsigned char value) const;

 private:
  unsigned char* data_;
  std::size_t bytes_;
};

/// Whole pages of pinned host memory.
class Pinned : public Pages {
 public:
  Pinned(DeviceBackend& backend, std::size_t bytes) : Pages(bytes), backend_(backend) {
    CONTRACT_OK(backend_, register_host(data(), bytes));
  }
  ~Pinned() { CHECK(backend_.unregister_host(data()).ok()); }

 private:
  DeviceBackend& backend_;
};

/// Device memory in a stream's order; freed in it at the end.
class OnDevice {
 public:
  OnDevice(DeviceBackend& backend, std::size_t bytes, StreamHandle stream) : backend_(backend), stream_(stream) {
    CONTRACT_OK(backend_, allocate_device(bytes, stream, &data_));
  }
  ~OnDevice() { CHECK(backend_.free_device(data_, stream_).ok()); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  unsigned char* data() const { return static_cast<unsigned char*>(data_); }

 private:
  DeviceBackend& backend_;
  StreamHandle stream_;
  void* data_ = nullptr;
};

/// Stops a stream at this point until it is opened, on any backend: a host function that waits. While one is closed no
/// other stream may be asked to run a host function: CUDA may use one thread for all of them.
class Gate {
 public:
  Gate(DeviceBackend& backend, StreamHandle stream);
  ~Gate() { open(); }
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;
  void open();

 private:
  std::shared_ptr<std::atomic<bool>> opened_ = std::make_shared<std::atomic<bool>>(false);
};

/// A captured graph and its executable; either may be destroyed early.
class TestGraph {
 public:
  TestGraph(DeviceBackend& backend, GraphHandle graph) : backend_(backend), graph_(graph) {
    CONTRACT_OK(backend_, instantiate_graph(graph_, &exec_));
  }
  ~TestGraph() {
    destroy_graph();
    destroy_exec();
  }
  TestGraph(const TestGraph&) = delete;
  TestGraph& operator=(const TestGraph&) = delete;
  void launch(StreamHandle stream) const { CONTRACT_OK(backend_, launch_graph(exec_, stream)); }
  operator GraphExecHandle() const { return exec_; }
  void destroy_graph() {
    if (graph_ != nullptr) CHECK(backend_.destroy_graph(std::exchange(graph_, nullptr)).ok());
  }
  void destroy_exec() {
    if (exec_ != nullptr) CHECK(backend_.destroy_graph_exec(std::exchange(exec_, nullptr)).ok());
  }

 private:
  DeviceBackend& backend_;
  GraphHandle graph_;
  GraphExecHandle exec_ = nullptr;
};

inline GraphHandle end_capture(DeviceBackend& backend, StreamHandle stream) {
  GraphHandle graph = nullptr;
  CONTRACT_OK(backend, end_capture(stream, &graph));
  return graph;
}

/// Counts calls, for host functions and for releases; `wait_for` blocks until there were so many.
class Count {
 public:
  static void add(void* count);
  int value() const { return value_.load(std::memory_order_acquire); }
  void wait_for(int count) const;

 private:
  std::atomic<int> value_{0};  // add's release pairs with value's acquire
};

}  // namespace contract
