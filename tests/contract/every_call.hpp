#pragma once

// Every call of the seam that returns a Status, by its name, for rules that hold for all of them.
// tests/tree/check_promises.py fails where one is missing. Without doctest: what a GPU that is lost says is a program
// of its own.

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "backend/backend.hpp"

namespace contract {

/// What the calls work on, made while the device works.
class EveryCall {
 public:
  using Status = thole::detail::Status;
  struct Call {
    std::string_view name;
    std::function<Status()> make;
  };

  explicit EveryCall(thole::detail::DeviceBackend& backend) : backend_(backend) {
    must("create_stream", backend.create_stream(&stream_));
    must("create_stream", backend.create_stream(&other_));
    must("create_event", backend.create_event(&event_));
    must("create_event", backend.create_event(&from_, {.timing = true}));
    must("create_event", backend.create_event(&to_, {.timing = true}));
    must("record_event", backend.record_event(event_, other_));
    must("record_event", backend.record_event(from_, other_));
    must("record_event", backend.record_event(to_, other_));
    must("register_host", backend.register_host(pinned_.get(), page));
    must("allocate_host", backend.allocate_host(page, &from_driver_));
    must("allocate_device", backend.allocate_device(page, stream_, &device_));
    must("begin_capture", backend.begin_capture(other_, thole::detail::CaptureMode::relaxed));
    must("launch_host_function", backend.launch_host_function(other_, nothing, nullptr));
    must("end_capture", backend.end_capture(other_, &graph_));
    must("instantiate_graph", backend.instantiate_graph(graph_, &exec_));
    must("synchronize_stream", backend.synchronize_stream(other_));
    must("synchronize_stream", backend.synchronize_stream(stream_));
  }
  EveryCall(const EveryCall&) = delete;
  EveryCall& operator=(const EveryCall&) = delete;

  /// The stream that is given work.
  thole::detail::StreamHandle stream() const { return stream_; }
  /// That can be read whatever became of the device.
  const std::byte* pinned() const { return pinned_.get(); }

  /// Those that let go of something come last. Good as long as this is.
  std::vector<Call> calls() {
    using thole::detail::CaptureMode, thole::detail::CopyKind;
    auto& b = backend_;
    return {
        {"register_host", [&] { return b.register_host(unpinned_.get(), page); }},
        {"allocate_host", [&] { return b.allocate_host(page, &made_); }},
        {"device_address", [&] { return b.device_address(pinned_.get(), &address_); }},
        {"allocate_device", [&] { return b.allocate_device(page, stream_, &made_); }},
        {"create_stream", [&] { return b.create_stream(&made_); }},
        {"stream_priority", [&] { return b.stream_priority(stream_, &priority_); }},
        {"synchronize_stream", [&] { return b.synchronize_stream(stream_); }},
        {"record_device", [&] { return b.record_device(event_); }},
        {"stream_id", [&] { return b.stream_id(stream_, &id_); }},
        {"check_stream", [&] { return b.check_stream(stream_); }},
        {"capture_info", [&] { return b.capture_info(stream_, &info_); }},
        {"create_event", [&] { return b.create_event(&made_); }},
        {"record_event", [&] { return b.record_event(event_, stream_); }},
        {"query_event", [&] { return b.query_event(event_); }},
        {"synchronize_event", [&] { return b.synchronize_event(event_); }},
        {"elapsed", [&] { return b.elapsed(from_, to_, &time_); }},
        {"wait_event", [&] { return b.wait_event(other_, event_); }},
        {"copy", [&] { return b.copy(device_, pinned_.get(), page, CopyKind::host_to_device, stream_); }},
        {"launch_host_function", [&] { return b.launch_host_function(stream_, nothing, nullptr); }},
        {"record_event_in_graph", [&] { return b.record_event_in_graph(event_, other_); }},
        {"retain_in_graph", [&] { return b.retain_in_graph(graph_, this, nothing); }},
        {"begin_capture", [&] { return b.begin_capture(other_, CaptureMode::relaxed); }},
        {"end_capture", [&] { return b.end_capture(other_, &made_); }},
        {"graph_nodes", [&] { return b.graph_nodes(graph_, &nodes_); }},
        {"instantiate_graph", [&] { return b.instantiate_graph(graph_, &made_); }},
        {"launch_graph", [&] { return b.launch_graph(exec_, stream_); }},
        {"unregister_host", [&] { return b.unregister_host(pinned_.get()); }},
        {"free_host", [&] { return b.free_host(from_driver_); }},
        {"free_device", [&] { return b.free_device(device_, stream_); }},
        {"destroy_event", [&] { return b.destroy_event(event_); }},
        {"destroy_graph_exec", [&] { return b.destroy_graph_exec(exec_); }},
        {"destroy_graph", [&] { return b.destroy_graph(graph_); }},
        {"destroy_stream", [&] { return b.destroy_stream(stream_); }},
    };
  }

  /// Whether it may be answered without a call of the driver: then it says nothing about the device.
  static bool may_need_no_call(std::string_view name) {
    return name == "check_stream" || name == "device_address" || name == "graph_nodes" || name == "retain_in_graph";
  }

  /// Of all, where the calls have done nothing.
  void let_go() {
    must("free_device", backend_.free_device(device_, stream_));
    must("synchronize_stream", backend_.synchronize_stream(stream_));
    must("unregister_host", backend_.unregister_host(pinned_.get()));
    must("free_host", backend_.free_host(from_driver_));
    for (thole::detail::EventHandle event : {event_, from_, to_}) must("destroy_event", backend_.destroy_event(event));
    must("destroy_graph_exec", backend_.destroy_graph_exec(exec_));
    must("destroy_graph", backend_.destroy_graph(graph_));
    for (thole::detail::StreamHandle stream : {stream_, other_})
      must("destroy_stream", backend_.destroy_stream(stream));
  }

 private:
  static constexpr std::size_t page = 4096;
  using Page = std::unique_ptr<std::byte, void (*)(void*)>;

  static Page new_page() {
    Page made(static_cast<std::byte*>(std::aligned_alloc(page, page)), std::free);
    if (made == nullptr) throw std::bad_alloc();
    std::fill_n(made.get(), page, std::byte{0});
    return made;
  }
  static void nothing(void*) {}
  void must(const char* call, Status status) const {
    if (!status.ok()) throw std::runtime_error(std::string(call) + ": " + backend_.describe(status));
  }

  thole::detail::DeviceBackend& backend_;
  const Page pinned_ = new_page(), unpinned_ = new_page();
  thole::detail::StreamHandle stream_ = nullptr, other_ = nullptr;
  thole::detail::EventHandle event_ = nullptr, from_ = nullptr, to_ = nullptr;
  thole::detail::GraphHandle graph_ = nullptr;
  thole::detail::GraphExecHandle exec_ = nullptr;
  void *from_driver_ = nullptr, *device_ = nullptr;
  // What the calls would answer.
  void* made_ = nullptr;
  const void* address_ = nullptr;
  std::uint64_t id_ = 0;
  int priority_ = 0;
  std::size_t nodes_ = 0;
  thole::detail::CaptureInfo info_;
  std::chrono::nanoseconds time_{0};
};

}  // namespace contract
