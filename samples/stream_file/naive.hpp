#pragma once

// The same job as programs do it that think of memory chunk by chunk: fresh memory, copy, wait, free. For comparison.

#include <cstddef>
#include <cstdint>
#include <gsl/span>
#include <memory>
#include <string>
#include <thole/thole.hpp>

#include "checks.hpp"
#include "device_histogram.hpp"
#include "files.hpp"

namespace stream_file {

/// Where the memory for each chunk comes from.
enum class NaiveMemory {
  pageable,  ///< Ordinary memory, which a driver has to stage through pinned memory of its own.
  pinned,    ///< Pinned for this chunk: on a GPU `cudaHostAlloc` and `cudaFreeHost`.
};

/// Fresh host memory for one chunk, there and back; given up at the end.
struct FreshChunk {
  gsl::span<unsigned char> in, out;
  FreshChunk() = default;
  FreshChunk(const FreshChunk&) = delete;
  FreshChunk& operator=(const FreshChunk&) = delete;
  virtual ~FreshChunk() = default;
};

/// The parts of the naive job that differ between devices.
class NaiveDevice {
 public:
  NaiveDevice() = default;
  NaiveDevice(const NaiveDevice&) = delete;
  NaiveDevice& operator=(const NaiveDevice&) = delete;
  virtual ~NaiveDevice() = default;
  virtual std::unique_ptr<FreshChunk> fresh(std::size_t bytes) = 0;
  /// Copies the first bytes of `chunk.in` to the device, has them counted there, copies them to `chunk.out`, and waits.
  virtual void there_and_back(FreshChunk& chunk, std::size_t bytes, DeviceHistogram& histogram) = 0;
  /// What the table calls this way.
  virtual std::string name() const = 0;
};

/// nullptr where this program cannot do it on the heap's device: on a GPU when it was built without CUDA.
std::unique_ptr<NaiveDevice> make_naive(NaiveMemory memory, const thole::PinnedHeap& heap,
                                        const thole::StreamRef& stream, std::size_t chunk);
/// The two that it chooses from; the second is in naive_cuda.cpp, compiled with CUDA only.
std::unique_ptr<NaiveDevice> make_naive_simulated(NaiveMemory memory, const thole::PinnedHeap& heap,
                                                  const thole::StreamRef& stream, std::size_t chunk);
std::unique_ptr<NaiveDevice> make_naive_cuda(NaiveMemory memory, const thole::StreamRef& stream, std::size_t chunk);

/// Streams as `stream_through` does, with the same checks, a chunk at a time.
Pass stream_naively(NaiveDevice& device, InputFile& input, const thole::PinnedHeap& heap,
                    const thole::StreamRef& stream, std::size_t chunk, std::uint64_t limit);

}  // namespace stream_file
