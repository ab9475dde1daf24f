// The first device of a process, made while the program captures a graph: the
// capture goes on and ends well. Exit status 77: there is no GPU, or
// THOLE_DEVICE does not ask for one.

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>

#include <cuda_runtime_api.h>
#include <thole/thole.hpp>

namespace {

void check(cudaError_t error, const char* call) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(call) + ": " + cudaGetErrorName(error));
}

void capture_beside_the_first_device(cudaStreamCaptureMode mode) {
  cudaStream_t stream = nullptr;
  void* memory = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  check(cudaMalloc(&memory, 64), "cudaMalloc");
  check(cudaStreamBeginCapture(stream, mode), "cudaStreamBeginCapture");
  const auto device = thole::Device::best();
  const thole::PinnedHeap heap(thole::PinnedArena(device, {.bytes = std::size_t{1} << 20}));
  const thole::Stream own(device);
  const auto there = heap.make_buffer<std::byte>(1000, std::byte{5}).async_to_device(own);
  if (there.async_to_host(own, heap).borrow()[999] != std::byte{5}) throw std::runtime_error("a wrong payload");
  check(cudaMemsetAsync(memory, 0, 64, stream), "cudaMemsetAsync");
  cudaGraph_t graph = nullptr;
  check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
  check(cudaGraphDestroy(graph), "cudaGraphDestroy");
  check(cudaFree(memory), "cudaFree");
  check(cudaStreamDestroy(stream), "cudaStreamDestroy");
}

}  // namespace

int main(int argc, char** argv) try {
  const char* const name = std::getenv("THOLE_DEVICE");
  if (name == nullptr || !std::string_view(name).starts_with("cuda")) return 77;
  const std::string_view mode = argc > 1 ? argv[1] : "global";
  capture_beside_the_first_device(mode == "global" ? cudaStreamCaptureModeGlobal : cudaStreamCaptureModeThreadLocal);
  return 0;
} catch (const std::exception& error) {
  std::printf("WRONG: %s\n", error.what());
  return 1;
}
