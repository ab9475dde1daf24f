// The native handle of a simulated stream, which must mean nothing to CUDA: simulated_on_gpu CALL gives it to one of
// CUDA's calls, or to thole's view of a GPU's stream. Either the call is refused, or it ends the process at once: CUDA
// takes the handle for an address and reads there, where no processor has any. So each call has a process of its own.
// Exit status 77: there is no GPU, or THOLE_DEVICE does not ask for one.

#include <unistd.h>

#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>

#include <cuda_runtime_api.h>
#include <thole/cuda.hpp>
#include <thole/thole.hpp>

#include "../support/gpu_code.hpp"

namespace {

/// What CUDA did with the handle is as good as a refusal: nothing has been done by accident.
extern "C" void ended_at_once(int) {
  constexpr char text[] = "good: the call ended the process\n";
  (void)!write(STDOUT_FILENO, text, sizeof text - 1);
  _exit(0);
}

cudaError_t give(std::string_view call, int ordinal, cudaStream_t handle) {
  static char host[64];
  void* memory = nullptr;
  cudaEvent_t event = nullptr;
  if (cudaMalloc(&memory, sizeof host) != cudaSuccess || cudaEventCreate(&event) != cudaSuccess)
    throw std::runtime_error("the GPU gives no memory or no event");
  const auto kernel_in = [&](cudaStream_t stream) {
    int* const numbers = static_cast<int*>(memory);
    return support::gpu::launch_twice(ordinal, stream, numbers, numbers, 1);
  };
  if (call == "kernel" && !kernel_in(nullptr)) throw std::runtime_error("no kernel can be launched in any stream");
  for (const int number : {SIGSEGV, SIGBUS, SIGABRT})
    if (std::signal(number, ended_at_once) == SIG_ERR) throw std::runtime_error("signal");
  if (call == "query") return cudaStreamQuery(handle);
  if (call == "synchronize") return cudaStreamSynchronize(handle);
  if (call == "copy") return cudaMemcpyAsync(memory, host, sizeof host, cudaMemcpyHostToDevice, handle);
  if (call == "record") return cudaEventRecord(event, handle);
  if (call == "wait") return cudaStreamWaitEvent(handle, event, 0);
  if (call == "function")
    return cudaLaunchHostFunc(
        handle, [](void*) {}, nullptr);
  if (call == "destroy") return cudaStreamDestroy(handle);
  if (call == "kernel") return kernel_in(handle) ? cudaSuccess : cudaErrorUnknown;  // which error is not told
  throw std::runtime_error("there is no such call");
}

}  // namespace

int main(int argc, char** argv) try {
  const char* const name = std::getenv("THOLE_DEVICE");
  if (name == nullptr || !std::string_view(name).starts_with("cuda")) return 77;
  const std::string_view call = argc > 1 ? argv[1] : "query";
  const auto gpu = thole::Device::best();
  const auto simulated = thole::Device::simulated();
  const thole::Stream stream(simulated);
  const cudaStream_t handle = stream.native();
  if (call == "from_native") {
    for (const int number : {SIGSEGV, SIGBUS, SIGABRT}) std::signal(number, ended_at_once);
    try {
      (void)thole::from_native(gpu, handle);
    } catch (const thole::Error& error) {
      std::printf("good: %s\n", error.what());
      return 0;
    }
    std::printf("WRONG: a view of a GPU's stream that is none\n");
    return 1;
  }
  const cudaError_t error = give(call, gpu.ordinal(), handle);
  std::printf("%s: %s\n", error == cudaSuccess ? "WRONG" : "good", cudaGetErrorName(error));
  return error == cudaSuccess ? 1 : 0;
} catch (const std::exception& error) {
  std::printf("WRONG: %s\n", error.what());
  return 1;
}
