// libthole_torch.so: thole as PyTorch's allocator of pinned host memory. This is all that knows PyTorch:
//
//     torch.ops.load_library(".../libthole_torch.so")
//     torch.ops.thole.install(4 << 30, 16 << 30)
//
// PyTorch asks at::getHostAllocator(kCUDA) for pinned memory, tells it of each non-blocking copy (record_event), and,
// around the capture of a graph, of the pool whose memory the graph may use. Memory that came from the allocator before
// goes back to that one by its own deleter; all that is said of it is handed on.

#include <ATen/core/CachingHostAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include <thole/cuda.hpp>

#include "host_memory.hpp"

namespace thole_torch {
namespace {

/// As PyTorch reports errors; it knows no others.
[[noreturn]] void fail(const char* call, const thole::Error& error) {
  const auto code = error.errc();
  const bool memory =
      code == thole::Errc::out_of_memory || code == thole::Errc::limit || code == thole::Errc::too_large;
  TORCH_CHECK_WITH(OutOfMemoryError, !memory, call, ": ", error.what());
  TORCH_CHECK_VALUE(code != thole::Errc::invalid_argument, call, ": ", error.what());
  TORCH_CHECK(false, call, ": ", error.what());
}

/// Made once and kept: the library's own answer takes a lock that all threads share.
const thole::Device& device_of(c10::DeviceIndex ordinal) {
  static std::array<std::atomic<const thole::Device*>, 128> known{};
  auto& place = known[static_cast<std::size_t>(ordinal) % known.size()];
  const thole::Device* found = place.load(std::memory_order_acquire);
  if (found != nullptr) return *found;
  auto made = std::make_unique<const thole::Device>(thole::Device::cuda(ordinal));
  return place.compare_exchange_strong(found, made.get(), std::memory_order_acq_rel) ? *made.release() : *found;
}

thole::StreamRef view(const c10::cuda::CUDAStream& stream) {
  return thole::from_native(device_of(stream.device_index()), stream.stream());
}

template <class Stat>
void set(Stat& stat, const Count& count) {
  stat.current = count.current;
  stat.peak = count.peak;
  stat.allocated = count.allocated;
  stat.freed = count.freed;
}

/// By the names that the installed header has: they were others once. The times stay 0: nobody measures them.
template <class Stats>
void fill(Stats& stats, const Figures& figures) {
  if constexpr (requires { stats.active_requests; }) {
    set(stats.active_requests, figures.requests);
    set(stats.active_bytes, figures.request_bytes);
    set(stats.allocations, figures.segments);
    set(stats.allocated_bytes, figures.segment_bytes);
  } else {
    set(stats.allocation, figures.requests);
    set(stats.allocated_bytes, figures.request_bytes);
    set(stats.segment, figures.segments);
    set(stats.reserved_bytes, figures.segment_bytes);
  }
  stats.num_host_alloc = figures.segments.allocated;
  stats.num_host_free = figures.segments.freed;
  if constexpr (requires { stats.bucket_allocation; })
    for (std::size_t i = 0; i < stats.bucket_allocation.size() && i < figures.segments_by_size.size(); ++i)
      stats.bucket_allocation[i] = figures.segments_by_size[i];
}

class Adapter final : public at::HostAllocator {
 public:
  Adapter(at::HostAllocator& before, const thole::Device& device, std::size_t bytes, std::size_t max_bytes)
      : before_(before), memory_(device, bytes, max_bytes) {}

  at::DataPtr allocate(std::size_t bytes) override {
    if (bytes == 0) return {nullptr, nullptr, &release, at::DeviceType::CPU};
    auto given = memory_.allocate(bytes);
    if (!given) fail("thole's pinned memory", given.error());
    at::DataPtr made((*given)->data, *given, &release, at::DeviceType::CPU);
    if (memory_.captures()) keep_in_capture(**given);
    return made;
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }  // the context is not the address
  void copy_data(void* to, const void* from, std::size_t bytes) const override { std::memcpy(to, from, bytes); }

  bool record_event(void* address, void* context, c10::Stream stream) override {
    if (stream.device_type() != at::DeviceType::CUDA) return before_.record_event(address, context, stream);
    const c10::cuda::CUDAStream native(stream);
    try {
      if (memory_.record_use(address, view(native))) return true;
    } catch (const thole::Error& error) {
      if (contains(address)) return wait_instead(native, error);
    }
    return before_.record_event(address, context, stream);
  }

  void empty_cache() override {
    try {
      memory_.empty_cache();
    } catch (const thole::Error& error) {
      fail("thole's pinned memory", error);
    }
    before_.empty_cache();
  }

  at::HostStats get_stats() override {
    at::HostStats stats;
    fill(stats, memory_.figures());
    return stats;
  }
  void reset_accumulated_stats() override { memory_.forget_totals(); }
  void reset_peak_stats() override { memory_.forget_peaks(); }

  // The one before keeps count of pools as well: a graph may have been captured before this was installed, and be gone
  // after.
  void begin_allocate_to_pool(c10::MempoolId_t pool, std::function<bool(c10::Stream)> filter) override {
    before_.begin_allocate_to_pool(pool, std::move(filter));
    memory_.begin_capture(pool);
  }
  void end_allocate_to_pool(c10::MempoolId_t pool) override {
    memory_.end_capture(pool);
    before_.end_allocate_to_pool(pool);
  }
  void release_pool(c10::MempoolId_t pool) override { before_.release_pool(pool); }

  const HostMemory& memory() const noexcept { return memory_; }

  static Adapter* installed;  // nullptr: not yet. Never destroyed: tensors may be dropped after main

 private:
  void keep_in_capture(const Given& given) const {
    try {
      memory_.keep_in_capture(given, view(c10::cuda::getCurrentCUDAStream()));
    } catch (const thole::Error& error) {
      fail("thole's pinned memory, in a graph capture", error);
    }
  }

  static void release(void* context) { installed->memory_.release(static_cast<Given*>(context)); }

  bool contains(const void* address) const noexcept try {
    return memory_.contains(address);
  } catch (const thole::Error&) {
    return false;  // in a forked child
  }

  /// A use that could not be noted is over when its stream has come so far. In a capture that is an error, and the
  /// capture's end.
  static bool wait_instead(const c10::cuda::CUDAStream& stream, const thole::Error& error) {
    if (error.errc() == thole::Errc::device_lost) fail("thole's pinned memory", error);
    stream.synchronize();
    return true;
  }

  at::HostAllocator& before_;
  HostMemory memory_;
};

Adapter* Adapter::installed = nullptr;

std::mutex install_mutex;

void install(std::int64_t bytes, std::int64_t max_bytes) {
  constexpr const char* call = "thole.install";
  const std::scoped_lock lock(install_mutex);
  TORCH_CHECK(Adapter::installed == nullptr, call,
              ": thole is PyTorch's host allocator already, and stays it: its memory may be in any tensor");
  TORCH_CHECK_VALUE(bytes > 0, call, ": ", bytes, " bytes: how much to pin at once must be at least 1");
  TORCH_CHECK_VALUE(max_bytes == 0 || max_bytes >= bytes, call, ": max_bytes is ", max_bytes, ", less than the ", bytes,
                    " bytes to pin at once; 0 says that it never grows");
  TORCH_CHECK(c10::cuda::device_count() > 0, call, ": there is no GPU that CUDA can use");
  at::HostAllocator* const before = at::getHostAllocator(at::kCUDA);
  TORCH_CHECK(before != nullptr, call, ": this PyTorch has no host allocator for CUDA");
  try {
    Adapter::installed = new Adapter(*before, device_of(c10::cuda::current_device()), static_cast<std::size_t>(bytes),
                                     static_cast<std::size_t>(max_bytes));
  } catch (const thole::Error& error) {
    fail(call, error);
  }
  at::setHostAllocator(at::kCUDA, Adapter::installed, 1);
  if (at::getHostAllocator(at::kCUDA) != Adapter::installed) {
    Adapter::installed = nullptr;  // no tensor has any of it; its arena is kept, which costs memory and no more
    TORCH_CHECK(false, call, ": another host allocator, with a priority above 1, is in the way");
  }
}

c10::Dict<std::string, std::int64_t> stats() {
  TORCH_CHECK(Adapter::installed != nullptr, "thole.stats: thole.install has not been called");
  const HostMemory& memory = Adapter::installed->memory();
  c10::Dict<std::string, std::int64_t> all;
  const auto say = [&all](const char* name, std::size_t value) { all.insert(name, static_cast<std::int64_t>(value)); };
  try {
    const auto arena = memory.arena().stats();
    const auto heap = memory.heap().stats();
    say("pinned_bytes", arena.capacity);
    say("max_bytes", arena.max_capacity);
    say("regions", arena.regions);
    say("grown", arena.grown);
    say("in_use_bytes", heap.in_use);
    say("in_flight_bytes", heap.in_flight);
    say("peak_bytes", heap.peak);
    say("cached_bytes", arena.cached);
    say("largest_free_bytes", arena.largest_free);
    say("made", heap.buffers_made);
    say("dropped_idle", heap.freed_at_once);
    say("dropped_in_flight", heap.deferred);
    say("reclaimed", heap.recycled);
  } catch (const thole::Error& error) {
    fail("thole.stats", error);
  }
  return all;
}

}  // namespace
}  // namespace thole_torch

TORCH_LIBRARY(thole, library) {
  library.def("install(int bytes, int max_bytes=0) -> ()", &thole_torch::install);
  library.def("stats() -> Dict(str, int)", &thole_torch::stats);
}
