#pragma once

// The simulated device behind the seam. Nothing here touches a GPU; everything really happens, in host memory.
// Defined in: backend.cpp, controls.cpp, graph_calls.cpp, kernel.cpp, memory_calls.cpp

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include <thole/simulation_options.hpp>

#include "backend/backend.hpp"

namespace thole::inline v0_1::detail {

namespace simulated {
struct SimulatedDevice;
}

class SimulatedBackend final : public DeviceBackend {
 public:
  explicit SimulatedBackend(const SimulationOptions& options);
  /// Finishes what can run by itself, drops the rest. Never waits for a held stream.
  ~SimulatedBackend() override;

  bool simulated() const noexcept override { return true; }
  int ordinal() const noexcept override { return 0; }
  std::string_view name() const noexcept override { return "simulated"; }
  std::string describe(Status status) const override;
  int numa_node() const noexcept override;

  /// What would write memory that is read-only is refused.
  Status register_host(void* data, std::size_t bytes, HostAccess access = HostAccess::read_write) noexcept override;
  /// On a device that runs by itself this waits for all running work, as CUDA does, and meanwhile other calls do; on a
  /// stepped one only for the operations that touch the memory at the moment: one that runs later loses the device with
  /// an illegal access.
  Status device_address(const void* data, const void** device) noexcept override;
  Status unregister_host(void* data) noexcept override;
  Status allocate_host(std::size_t bytes, void** data) noexcept override;
  Status free_host(void* data) noexcept override;

  /// Refused in a capture (CUDA would make it a node of the graph); that invalidates the capture.
  Status allocate_device(std::size_t bytes, StreamHandle stream, void** data) noexcept override;
  Status free_device(void* data, StreamHandle stream) noexcept override;

  Status create_stream(StreamHandle* stream, int priority = 0) noexcept override;
  Status stream_priority(StreamHandle stream, int* priority) noexcept override;
  Status destroy_stream(StreamHandle stream) noexcept override;
  /// On a stepped device allocations need no step where a caller waits for nothing else.
  Status synchronize_stream(StreamHandle stream) noexcept override;
  /// Blocks also where a stream of the device is held.
  Status stream_id(StreamHandle stream, std::uint64_t* id) noexcept override;
  Status check_stream(StreamHandle stream) noexcept override;
  Status capture_info(StreamHandle stream, CaptureInfo* info) noexcept override;

  Status create_event(EventHandle* event, EventFlags flags = {}) noexcept override;
  Status destroy_event(EventHandle event) noexcept override;
  Status record_event(EventHandle event, StreamHandle stream) noexcept override;
  Status record_device(EventHandle event) noexcept override;
  Status query_event(EventHandle event) noexcept override;
  Status synchronize_event(EventHandle event) noexcept override;
  /// By the simulated clock.
  Status elapsed(EventHandle from, EventHandle to, std::chrono::nanoseconds* time) noexcept override;
  Status wait_event(StreamHandle stream, EventHandle event) noexcept override;

  Status copy(void* destination, const void* source, std::size_t bytes, CopyKind kind,
              StreamHandle stream) noexcept override;
  Status launch_host_function(StreamHandle stream, void (*function)(void*), void* argument) noexcept override;

  CaptureMode exchange_capture_mode(CaptureMode mode) noexcept override;
  Status record_event_in_graph(EventHandle event, StreamHandle stream) noexcept override;
  Status retain_in_graph(GraphHandle graph, void* object, void (*released)(void*)) noexcept override;
  Status begin_capture(StreamHandle stream, CaptureMode mode) noexcept override;
  Status end_capture(StreamHandle stream, GraphHandle* graph) noexcept override;
  Status graph_nodes(GraphHandle graph, std::size_t* count) noexcept override;
  Status instantiate_graph(GraphHandle graph, GraphExecHandle* exec) noexcept override;
  Status launch_graph(GraphExecHandle exec, StreamHandle stream) noexcept override;
  Status destroy_graph(GraphHandle graph) noexcept override;
  Status destroy_graph_exec(GraphExecHandle exec) noexcept override;

  /// A piece of memory that a kernel uses; 0 bytes: none.
  struct KernelUse {
    void* data;
    std::size_t bytes;
    bool writes;
  };
  /// Enqueues `run(function, places)`, which gets one place for each use: pinned memory as it is, device memory at an
  /// address that is good while it runs. Stands for a kernel of the program's: needs a CPU. `run` must not throw.
  Status launch_kernel(StreamHandle stream, const KernelUse* uses, std::size_t count,
                       void (*run)(void* function, void* const* places), std::shared_ptr<void> function) noexcept;

  // ---- Controls: what class Simulation (<thole/simulation.hpp>) says of them. A stream that does not exist is
  // ignored.
  void hold(StreamHandle stream);
  void release(StreamHandle stream);
  /// All that are held, also those that nobody has a handle of any more.
  void release_all();
  std::size_t step(StreamHandle stream, std::size_t operations);
  bool step_any();
  std::size_t run_all();
  std::size_t pending(StreamHandle stream) const;
  std::size_t pending() const;
  std::size_t blocked_callers() const;
  std::chrono::nanoseconds now() const;
  void fail_call(SimulatedCall call, std::size_t nth);
  void before_call(SimulatedCall call, std::function<void()> run);
  void after_call(SimulatedCall call, std::function<void()> run);
  void lose_device();
  void* view_of(const void* device_memory) const;
  std::size_t pinned_bytes() const;
  std::size_t device_bytes() const;
  std::size_t live_events() const;
  std::size_t calls(SimulatedCall call) const;

 private:
  const std::shared_ptr<simulated::SimulatedDevice> device_;
};

/// Throws std::bad_alloc only.
std::shared_ptr<DeviceBackend> make_simulated_backend(const SimulationOptions& options);

}  // namespace thole::inline v0_1::detail
