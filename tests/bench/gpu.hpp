#pragma once

// A stream that is kept busy: by a kernel on a GPU, by the controls on a simulated device.

#include <chrono>
#include <stdexcept>
#include <thole/thole.hpp>

#include "spin_kernel.hpp"

namespace bench {

#ifdef THOLE_BENCH_HAS_KERNEL
inline constexpr bool has_kernel = true;
#else
inline constexpr bool has_kernel = false;
#endif

inline bool can_stall(const thole::Device& device) {
  return device.backend() == thole::Backend::simulated || has_kernel;
}

/// Until end_stall() where the device is simulated; on a GPU, by the clock.
inline void stall_for(const thole::StreamRef& stream, [[maybe_unused]] unsigned milliseconds) {
  auto device = stream.device();
  if (device.backend() == thole::Backend::simulated) return device.simulation().hold(stream);
#ifdef THOLE_BENCH_HAS_KERNEL
  if (!launch_spin(stream.native(), milliseconds)) throw std::runtime_error("the kernel could not be launched");
#endif
}

/// Until let_go(), however long that takes; one stream at a time.
inline void stall(const thole::StreamRef& stream) {
  auto device = stream.device();
  if (device.backend() == thole::Backend::simulated) return device.simulation().hold(stream);
#ifdef THOLE_BENCH_HAS_KERNEL
  if (!launch_wait(stream.native())) throw std::runtime_error("the kernel could not be launched");
#endif
}

inline void let_go(const thole::StreamRef& stream) {
  auto device = stream.device();
  if (device.backend() == thole::Backend::simulated) return device.simulation().release(stream);
#ifdef THOLE_BENCH_HAS_KERNEL
  end_wait();
#endif
}

/// Ends either kind, but for a GPU's by the clock, and waits for it.
inline void end_stall(const thole::StreamRef& stream) {
  let_go(stream);
  stream.synchronize();
}

/// Figures (d) of lifetime: what one stalled stream does to the others.
class Figures;
void stalled_stream(Figures& figures, const thole::Device& device, const thole::PinnedHeap& heap);
/// What arenas that come and go beside one cost the others.
void coming_arenas(Figures& figures, const thole::Device& device, const thole::PinnedHeap& heap);
/// What one whose queue is full costs the others.
void full_queue(Figures& figures, const thole::Device& device, const thole::PinnedHeap& heap);

/// What an arena costs a fork, and copies while it is pinned in the background.
void forks(Figures& figures, const thole::Device& device);
void pinned_in_background(Figures& figures, const thole::Device& device, const thole::PinnedHeap& heap);

/// Figures of what must not grow with what is unfinished or has ended.
void growth(Figures& figures);

}  // namespace bench
