// The naive ways on a GPU: CUDA's own calls, as a program without thole makes them.

#include <stdexcept>
#include <thole/cuda.hpp>

#include "naive.hpp"

namespace stream_file {
namespace {

void check(cudaError_t error, const char* call) {
  if (error != cudaSuccess)
    throw std::runtime_error(std::string(call) + " failed in the naive comparison: " + cudaGetErrorString(error));
}

struct PageableChunk final : FreshChunk {
  explicit PageableChunk(std::size_t bytes)
      : there(std::make_unique_for_overwrite<unsigned char[]>(bytes)),
        back(std::make_unique_for_overwrite<unsigned char[]>(bytes)) {
    in = {there.get(), bytes};
    out = {back.get(), bytes};
  }
  std::unique_ptr<unsigned char[]> there, back;
};

/// One buffer from cudaHostAlloc.
class HostAllocation {
 public:
  explicit HostAllocation(std::size_t bytes) : bytes_(bytes) {
    check(cudaHostAlloc(&data_, bytes, cudaHostAllocDefault), "cudaHostAlloc");
  }
  HostAllocation(const HostAllocation&) = delete;
  HostAllocation& operator=(const HostAllocation&) = delete;
  ~HostAllocation() { cudaFreeHost(data_); }
  gsl::span<unsigned char> span() const { return {static_cast<unsigned char*>(data_), bytes_}; }

 private:
  void* data_ = nullptr;
  std::size_t bytes_;
};

struct PinnedChunk final : FreshChunk {
  explicit PinnedChunk(std::size_t bytes) : there(bytes), back(bytes) {
    in = there.span();
    out = back.span();
  }
  HostAllocation there, back;
};

/// Copies to and from one piece of device memory: the comparison is about host memory only.
class NaiveCuda final : public NaiveDevice {
 public:
  NaiveCuda(NaiveMemory memory, const thole::StreamRef& stream, std::size_t chunk)
      : memory_(memory), stream_(stream), on_device_(stream, chunk) {
    check(cudaSetDevice(stream.device().ordinal()), "cudaSetDevice");
  }

  std::unique_ptr<FreshChunk> fresh(std::size_t bytes) override {
    if (memory_ == NaiveMemory::pageable) return std::make_unique<PageableChunk>(bytes);
    return std::make_unique<PinnedChunk>(bytes);
  }

  void there_and_back(FreshChunk& chunk, std::size_t bytes, DeviceHistogram& histogram) override {
    const auto there = on_device_.span().subspan(0, bytes);
    const cudaStream_t stream = thole::native(stream_);
    check(cudaMemcpyAsync(there.native(), chunk.in.data(), bytes, cudaMemcpyHostToDevice, stream), "cudaMemcpyAsync");
    histogram.add(there);
    check(cudaMemcpyAsync(chunk.out.data(), there.native(), bytes, cudaMemcpyDeviceToHost, stream), "cudaMemcpyAsync");
    check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  }

  std::string name() const override {
    return memory_ == NaiveMemory::pageable ? "fresh pageable memory for each chunk"
                                            : "cudaHostAlloc, cudaFreeHost for each chunk";
  }

 private:
  NaiveMemory memory_;
  thole::StreamRef stream_;
  thole::DeviceBuffer<unsigned char> on_device_;
};

}  // namespace

std::unique_ptr<NaiveDevice> make_naive_cuda(NaiveMemory memory, const thole::StreamRef& stream, std::size_t chunk) {
  return std::make_unique<NaiveCuda>(memory, stream, chunk);
}

}  // namespace stream_file
