// The legacy default stream while a thread's default stream captures.

#include <functional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "contract.hpp"

using namespace contract;

namespace {

constexpr std::size_t bytes = Pages::page;
void* const per_thread = reinterpret_cast<void*>(2);

void nothing(void*) {}

/// The calls of the seam that are given a stream, on the legacy one. Not destroy_stream, which nobody does to it.
class OnLegacy {
 public:
  struct Call {
    std::string_view name;
    std::function<Status()> make;
  };

  explicit OnLegacy(DeviceBackend& backend)
      : backend_(backend),
        made_on_(backend),
        event_(backend),
        host_(backend, bytes),
        device_(backend, bytes, made_on_) {
    CONTRACT_OK(backend_, allocate_device(bytes, made_on_, &to_free_));
    CONTRACT_OK(backend_, record_event(event_, made_on_));
    CONTRACT_OK(backend_, begin_capture(made_on_, CaptureMode::relaxed));
    CONTRACT_OK(backend_, launch_host_function(made_on_, nothing, nullptr));
    graph_ = end_capture(backend_, made_on_);
    CONTRACT_OK(backend_, instantiate_graph(graph_, &exec_));
    made_on_.synchronize();
  }
  OnLegacy(const OnLegacy&) = delete;
  OnLegacy& operator=(const OnLegacy&) = delete;
  ~OnLegacy() {
    if (to_free_ != nullptr) CHECK(backend_.free_device(to_free_, made_on_).ok());
    CHECK(backend_.destroy_graph_exec(exec_).ok());
    CHECK(backend_.destroy_graph(graph_).ok());
  }

  std::vector<Call> calls() {
    auto& b = backend_;
    const StreamHandle legacy = nullptr;
    return {
        {"allocate_device",
         [&b] {
           void* made = nullptr;
           const Status status = b.allocate_device(bytes, nullptr, &made);
           if (status.ok()) CHECK(b.free_device(made, nullptr).ok());
           return status;
         }},
        {"free_device",
         [&b, this] {
           if (to_free_ == nullptr) return Status{StatusCode::failed};  // it is gone already, and that was wrong
           const Status status = b.free_device(to_free_, nullptr);
           if (status.ok()) to_free_ = nullptr;
           return status;
         }},
        {"synchronize_stream", [=, &b] { return b.synchronize_stream(legacy); }},
        {"stream_id", [=, &b, this] { return b.stream_id(legacy, &id_); }},
        {"stream_priority", [=, &b, this] { return b.stream_priority(legacy, &priority_); }},
        {"check_stream", [=, &b] { return b.check_stream(legacy); }},
        {"capture_info", [=, &b, this] { return b.capture_info(legacy, &info_); }},
        {"record_event", [=, &b, this] { return b.record_event(event_, legacy); }},
        {"wait_event", [=, &b, this] { return b.wait_event(legacy, event_); }},
        {"copy",
         [=, &b, this] { return b.copy(device_.data(), host_.data(), bytes, CopyKind::host_to_device, legacy); }},
        {"launch_host_function", [=, &b] { return b.launch_host_function(legacy, nothing, nullptr); }},
        {"record_event_in_graph", [=, &b, this] { return b.record_event_in_graph(event_, legacy); }},
        {"begin_capture", [=, &b] { return b.begin_capture(legacy, CaptureMode::relaxed); }},
        {"end_capture", [=, &b, this] { return b.end_capture(legacy, &made_graph_); }},
        {"launch_graph", [=, &b, this] { return b.launch_graph(exec_, legacy); }},
    };
  }

 private:
  DeviceBackend& backend_;
  const TestStream made_on_;
  const TestEvent event_;
  const Pinned host_;
  const OnDevice device_;
  void* to_free_ = nullptr;
  GraphHandle graph_ = nullptr, made_graph_ = nullptr;
  GraphExecHandle exec_ = nullptr;
  std::uint64_t id_ = 0;
  int priority_ = 0;
  CaptureInfo info_;
};

std::string name_of(CaptureMode mode) {
  return mode == CaptureMode::global ? "global" : mode == CaptureMode::relaxed ? "relaxed" : "thread-local";
}

}  // namespace

CONTRACT_CASE(
    "while a default stream captures, in any mode, each call that another thread makes on the legacy one is refused "
    "and ends the capture, but for capture_info, which is refused alone [9]") {
  OnLegacy legacy(backend);
  for (const CaptureMode mode : {CaptureMode::global, CaptureMode::thread_local_, CaptureMode::relaxed}) {
    for (const auto& call : legacy.calls()) {
      CAPTURE(call.name);
      CAPTURE(name_of(mode));
      CONTRACT_OK(backend, begin_capture(per_thread, mode));
      Status status;
      std::thread([&] { status = call.make(); }).join();
      CaptureInfo info;
      CONTRACT_OK(backend, capture_info(per_thread, &info));
      const bool refused = status.code == StatusCode::capture;
      const bool ended = info.state == CaptureInfo::State::invalidated;
      CAPTURE(backend.describe(status));
      CAPTURE(ended);
      if (call.name == "check_stream" && status.ok()) {  // which is no call on it
        CHECK(!ended);
      } else {
        CHECK(refused);
        CHECK(ended == (call.name != "capture_info"));
      }
      GraphHandle graph = nullptr;
      const Status end = backend.end_capture(per_thread, &graph);
      CHECK(end.code == (ended ? StatusCode::capture : StatusCode::ok));
      if (graph != nullptr) CHECK(backend.destroy_graph(graph).ok());
    }
  }
  const TestEvent event(backend);
  CONTRACT_OK(backend, record_event(event, nullptr));  // and both streams work again
  CONTRACT_OK(backend, record_event(event, per_thread));
  CONTRACT_OK(backend, synchronize_event(event));
}
