// A program that has a context of its own current, or none, while it uses
// thole: thole works on the GPU's primary one and leaves the thread as it was.
// Exit status 77: there is no GPU, or THOLE_DEVICE does not ask for one.

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include <cuda.h>
#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>
#include <thole/cuda.hpp>
#include <thole/thole.hpp>

namespace {

using thole::Errc, thole::Error;
using Bytes = thole::PinnedBuffer<std::byte>;

constexpr std::size_t bytes = std::size_t{1} << 20;
bool good = true;

void must(bool condition, const std::string& what) {
  std::printf("%s: %s\n", condition ? "good" : "WRONG", what.c_str());
  good = good && condition;
}

/// A function of the driver's, through the runtime: the program needs no
/// libcuda to be linked.
template <class Function>
Function driver(const char* name, [[maybe_unused]] unsigned version) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult answer{};
#if CUDART_VERSION >= 12050
  const cudaError_t error = cudaGetDriverEntryPointByVersion(name, &found, version, cudaEnableDefault, &answer);
#else
  const cudaError_t error = cudaGetDriverEntryPoint(name, &found, cudaEnableDefault, &answer);
#endif
  if (error != cudaSuccess || found == nullptr) throw std::runtime_error(std::string("the driver has no ") + name);
  return reinterpret_cast<Function>(found);
}

CUcontext current() {
  static const auto get = driver<PFN_cuCtxGetCurrent_v4000>("cuCtxGetCurrent", 4000);
  CUcontext context = nullptr;
  return get(&context) == CUDA_SUCCESS ? context : nullptr;
}

/// Everything that calls the device: made, used, waited for and dropped on the
/// calling thread.
void use_all(const thole::Device& device, const char* where) {
  const CUcontext before = current();
  const auto same = [&](const char* call) {
    if (current() != before) must(false, std::string(call) + " changes the current context, " + where);
  };
  {
    const thole::PinnedArena arena(device, {.bytes = 8 * bytes, .max_bytes = 64 * bytes});
    same("PinnedArena");
    const thole::PinnedHeap heap(arena);
    std::optional<thole::Stream> stream(std::in_place, device), other(std::in_place, device);
    same("Stream");
    auto buffer = heap.make_buffer<std::byte>(bytes, std::byte{3});
    std::optional<thole::DeviceBuffer<std::byte>> there(buffer.async_to_device(*stream));
    same("async_to_device");
    const thole::Event event = stream->record();
    same("record");
    other->wait(event);
    same("Stream::wait");
    auto back = there->async_to_host(*other, heap);
    same("async_to_host");
    must(back.borrow()[bytes - 1] == std::byte{3}, std::string("a copy there and back, ") + where);
    same("borrow");
    buffer.async_from_device(*stream, there->span());
    (void)buffer.borrow_mut();
    event.synchronize();
    (void)event.ready();
    const auto large = heap.make_buffer<std::byte>(20 * bytes);  // the arena grows
    same("make_buffer");
    there.reset();
    same("~DeviceBuffer");
    stream.reset();
    same("~Stream");
    (void)heap.collect();
    heap.drain();
    same("drain");
  }
  same("the end of all");
}

/// What another thread, with another context, did before must not spoil what
/// this one does in the same stream.
void take_turns(const thole::Device& device, CUcontext own) {
  static const auto set = driver<PFN_cuCtxSetCurrent_v4000>("cuCtxSetCurrent", 4000);
  const thole::PinnedHeap heap(thole::PinnedArena(device, {.bytes = 8 * bytes}));
  const thole::Stream stream(device);
  thole::DeviceBuffer<std::byte> memory(stream, bytes);
  auto buffer = heap.make_buffer<std::byte>(bytes, std::byte{5});
  int failed = 0;
  for (int round = 0; round != 20; ++round)
    std::thread([&] {
      if (round % 2 == 0) (void)set(own);
      try {
        buffer.async_to_device(stream, memory.span());
        const thole::Event event = stream.record();
        buffer.async_from_device(stream, memory.span());
        event.synchronize();
        (void)buffer.borrow_mut();
      } catch (const Error& error) {
        std::printf("%s\n", error.what());
        ++failed;
      }
      if (round % 2 == 0 && current() != own) ++failed;
      if (round % 2 != 0 && current() != nullptr) ++failed;
    }).join();
  must(failed == 0,
       "threads with and without a context of their own take "
       "turns in one stream");
}

}  // namespace

int main() try {
  const char* const name = std::getenv("THOLE_DEVICE");
  if (name == nullptr || !std::string_view(name).starts_with("cuda")) return 77;
  const auto device = thole::Device::best();
  const auto get_device = driver<PFN_cuDeviceGet_v2000>("cuDeviceGet", 2000);
  const auto create = driver<PFN_cuCtxCreate_v3020>("cuCtxCreate", 3020);
  const auto destroy = driver<PFN_cuCtxDestroy_v4000>("cuCtxDestroy", 4000);
  const auto create_stream = driver<PFN_cuStreamCreate_v2000>("cuStreamCreate", 2000);
  const auto destroy_stream = driver<PFN_cuStreamDestroy_v4000>("cuStreamDestroy", 4000);

  std::thread([&] {
    must(current() == nullptr, "a new thread has no context");
    use_all(device, "on a thread without a context");
    must(current() == nullptr, "and none after it has used thole");
  }).join();

  CUdevice ordinal = 0;
  CUcontext own = nullptr;
  if (get_device(&ordinal, device.ordinal()) != CUDA_SUCCESS || create(&own, 0, ordinal) != CUDA_SUCCESS)
    throw std::runtime_error("no second context can be had");
  must(current() == own, "the program's own context is current");
  use_all(device, "with the program's own context current");
  must(current() == own, "and is current afterwards");

  CUstream theirs = nullptr;
  if (create_stream(&theirs, CU_STREAM_NON_BLOCKING) != CUDA_SUCCESS) throw std::runtime_error("cuStreamCreate");
  try {
    (void)thole::from_native(device, theirs);
    must(false, "a view of a stream of another context");
  } catch (const Error& error) {
    must(error.errc() == Errc::wrong_device, error.what());
  }
  (void)destroy_stream(theirs);
  take_turns(device, own);
  // Its end takes nothing of thole's with it.
  const thole::PinnedHeap heap(thole::PinnedArena(device, {.bytes = 4 * bytes}));
  const thole::Stream stream(device);
  auto buffer = heap.make_buffer<std::byte>(bytes, std::byte{8});
  const auto there = buffer.async_to_device(stream);
  if (destroy(own) != CUDA_SUCCESS) throw std::runtime_error("cuCtxDestroy");
  must(there.async_to_host(stream, heap).borrow()[0] == std::byte{8}, "thole's work goes on when that context is gone");
  return good ? 0 : 1;
} catch (const std::exception& error) {
  std::printf("WRONG: %s\n", error.what());
  return 1;
}
