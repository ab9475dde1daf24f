#include "bare.hpp"

#include <cuda_runtime_api.h>

#include <chrono>
#include <functional>
#include <memory>

#include "figures.hpp"

namespace bench {
namespace {

using namespace std::chrono_literals;

void check(cudaError_t result) {
  if (result != cudaSuccess) throw std::runtime_error(cudaGetErrorString(result));
}

/// What one thread copies between.
struct Place {
  Place(int ordinal, std::size_t bytes) : stream(ordinal) {
    check(cudaMalloc(&target, bytes));
    check(cudaHostAlloc(&back, bytes, 0));
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  }
  ~Place() {
    cudaStreamSynchronize(native());
    cudaEventDestroy(event);
    cudaFreeHost(back);
    cudaFree(target);
  }
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;
  cudaStream_t native() const { return static_cast<cudaStream_t>(stream.native()); }
  BareStream stream;
  void* target = nullptr;
  void* back = nullptr;
  cudaEvent_t event = nullptr;
};

/// Pinned memory for a while.
struct Source {
  explicit Source(std::size_t bytes) { check(cudaHostAlloc(&data, bytes, 0)); }
  ~Source() { cudaFreeHost(data); }
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;
  void* data = nullptr;
};

}  // namespace

BareStream::BareStream(int ordinal) {
  check(cudaSetDevice(ordinal));
  cudaStream_t made = nullptr;
  check(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking));
  stream_ = made;
}

BareStream::~BareStream() { cudaStreamDestroy(static_cast<cudaStream_t>(stream_)); }

void bare_use_device(int ordinal) { check(cudaSetDevice(ordinal)); }

void bare_copy_to_device(void* target, const void* source, std::size_t bytes, thole::NativeStream stream) {
  check(cudaMemcpyAsync(target, source, bytes, cudaMemcpyHostToDevice, stream));
}

void bare_launch(thole::NativeGraphExec exec, thole::NativeStream stream) { check(cudaGraphLaunch(exec, stream)); }

double bare_copies(int ordinal, int threads, std::size_t buffer_bytes, std::size_t copy_bytes, bool with_event) {
  const Source source(buffer_bytes);
  return per_operation(threads, 200ms, [&](int) -> std::function<void()> {
    auto place = std::make_shared<Place>(ordinal, copy_bytes);
    return [place, data = source.data, copy_bytes, with_event] {
      check(cudaMemcpyAsync(place->target, data, copy_bytes, cudaMemcpyHostToDevice, place->native()));
      if (with_event) check(cudaEventRecord(place->event, place->native()));
    };
  });
}

double bare_round_trips(int ordinal, int threads, std::size_t bytes) {
  const Source source(bytes);
  return per_operation(threads, 200ms, [&](int) -> std::function<void()> {
    auto place = std::make_shared<Place>(ordinal, bytes);
    return [place, data = source.data, bytes] {
      void* memory = nullptr;
      check(cudaMallocAsync(&memory, bytes, place->native()));
      check(cudaMemcpyAsync(memory, data, bytes, cudaMemcpyHostToDevice, place->native()));
      check(cudaMemcpyAsync(place->back, memory, bytes, cudaMemcpyDeviceToHost, place->native()));
      check(cudaFreeAsync(memory, place->native()));
    };
  });
}

}  // namespace bench
