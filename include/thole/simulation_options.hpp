#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <thole/detail/std_parts.hpp>

namespace thole::inline v0_1 {

/// How a simulated device behaves. The defaults give a device that runs by itself, as fast as the CPU copies.
struct SimulationOptions {
  /// Device memory, in bytes. Allocations beyond it fail with `Errc::out_of_memory`.
  std::size_t device_bytes = std::size_t{4} << 30;
  /// The NUMA node of the machine that the device says it sits on; not set: on none.
  std::optional<int> numa_node = std::nullopt;
  /// How much host memory may be registered, in bytes; beyond it pinning fails as at RLIMIT_MEMLOCK.
  std::size_t max_pinned_bytes = SIZE_MAX;
  /// Bytes that a copy moves in a second of simulated time; 0: copies take no simulated time.
  double bytes_per_second = 0;
  /// Simulated time from the start of an operation to its end, besides the bytes; events and waits take none.
  std::chrono::nanoseconds latency{0};
  /// false: worker threads run each stream by themselves, in real time. true: nothing runs until `Simulation`
  /// steps or releases it; this is how tests decide what has happened and what has not.
  bool stepped = false;
  /// Not 0: an operation completes as late as it may: when somebody waits for it or asks for it, or else after a delay
  /// of at most this, which the seed picks. Mistakes that a fast device hides then show. Only where the device runs by
  /// itself.
  std::chrono::nanoseconds late{0};
  /// Whether losing this device loses every simulated device of the process, those that are made later, too: after a
  /// sticky error nothing in a process works with CUDA again. Empty: yes, but not for a stepped device, with which a
  /// test may lose one after the other.
  std::optional<bool> loss_is_final = std::nullopt;
  /// Whether a copy or a kernel looks whether the program has mapped other pages where it had pinned some: CUDA goes on
  /// with the old pages and says nothing; here the device is lost, and says so. Reads /proc/self/smaps each time, so it
  /// costs about a millisecond. Pages that are given back by madvise(MADV_DONTNEED) it does not see.
  bool watch_registrations = false;
  /// Whether the device finds pinned memory at addresses of its own, as GPUs do that cannot use the host's: what
  /// `use_on` hands on is then good for the device alone.
  bool own_addresses = false;
  /// How many operations a stream takes before a call that adds one more blocks, as on a GPU behind stuck work; 0: any
  /// number. Not set: 1,000 on a device that runs by itself, any number on a stepped one. While a caller is blocked so,
  /// other threads are that make or destroy streams and events, pin or unpin memory, begin a capture or launch a host
  /// function.
  std::optional<std::size_t> queue_limit = std::nullopt;
  /// Picks the order in which `step_any` and `run_all` complete operations of different streams, and that of a
  /// graph's branches.
  std::uint64_t seed = 0;
};

/// The kinds of call that a device takes: `Simulation` counts them, and can make them fail.
enum class SimulatedCall {
  register_host,
  unregister_host,
  allocate_host,
  free_host,
  device_address,
  allocate_device,
  free_device,
  create_stream,
  destroy_stream,
  synchronize_stream,
  stream_id,
  check_stream,
  capture_info,
  create_event,
  destroy_event,
  record_event,
  record_device,
  query_event,
  synchronize_event,
  wait_event,
  copy,
  host_function,
  kernel,
  retain_in_graph,
  begin_capture,
  end_capture,
  graph_nodes,
  instantiate_graph,
  launch_graph,
  destroy_graph,
  destroy_graph_exec,
};

}  // namespace thole::inline v0_1
