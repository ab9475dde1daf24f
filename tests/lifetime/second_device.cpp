// A process that works on the second GPU alone has no context on the first: one
// takes hundreds of megabytes there, and the time to make it. Exit status 77:
// THOLE_DEVICE does not ask for a GPU, or there are not two.

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>

#include <cuda.h>
#include <dlfcn.h>
#include <thole/thole.hpp>

namespace {

constexpr std::size_t bytes = std::size_t{1} << 20;

/// The driver's own functions, and not through the runtime, so that nothing but thole could make a context.
class Driver {
 public:
  Driver() : library_(dlopen("libcuda.so.1", RTLD_NOW)) {
    if (library_ == nullptr) throw std::runtime_error("there is no libcuda.so.1");
    if (find<CUresult(unsigned)>("cuInit")(0) != CUDA_SUCCESS) throw std::runtime_error("cuInit failed");
  }
  int count() const {
    int count = 0;
    (void)find<CUresult(int*)>("cuDeviceGetCount")(&count);
    return count;
  }
  /// Whether the GPU has a primary context.
  bool is_active(int ordinal) const {
    CUdevice device = 0;
    unsigned flags = 0;
    int active = 0;
    if (find<CUresult(CUdevice*, int)>("cuDeviceGet")(&device, ordinal) != CUDA_SUCCESS ||
        find<CUresult(CUdevice, unsigned*, int*)>("cuDevicePrimaryCtxGetState")(device, &flags, &active) !=
            CUDA_SUCCESS)
      throw std::runtime_error("cuDevicePrimaryCtxGetState failed");
    return active != 0;
  }

 private:
  template <class Function>
  Function* find(const char* name) const {
    void* const found = dlsym(library_, name);
    if (found == nullptr) throw std::runtime_error(std::string("the driver has no ") + name);
    return reinterpret_cast<Function*>(found);
  }
  void* const library_;
};

/// Everything that calls the device, on the calling thread.
void use_all(const thole::Device& device, const thole::ArenaOptions& options) {
  const thole::PinnedHeap heap(thole::PinnedArena(device, options), {.background_reclaim = true});
  const thole::Stream stream(device), other(device);
  auto buffer = heap.make_buffer<std::byte>(bytes, std::byte{3});
  auto there = buffer.async_to_device(stream);
  const thole::Event event = stream.record();
  other.wait(event);
  const auto back = there.async_to_host(other, heap);
  other.launch_host_function([] {});
  thole::use_on(other, thole::reads(there), thole::writes(buffer),
                [](const std::byte*, std::byte*, thole::NativeStream) {});
  const auto graph = thole::capture(stream, [&] { buffer.async_to_device(stream, there.span()); });
  graph.instantiate().launch(stream);
  if (back.borrow()[bytes - 1] != std::byte{3}) throw std::runtime_error("a wrong payload");
  stream.synchronize();
  event.synchronize();
  (void)heap.deallocate_after_all(heap.allocate(bytes));
  heap.drain();
  (void)heap.report();
}

}  // namespace

int main() try {
  const char* const name = std::getenv("THOLE_DEVICE");
  if (name == nullptr || !std::string_view(name).starts_with("cuda")) return 77;
  const Driver driver;
  if (const int count = driver.count(); count < 2) {
    std::printf("there is nothing to check: %d GPU, and not two\n", count);
    return 77;
  }
  if (driver.is_active(0) || driver.is_active(1)) throw std::runtime_error("there is a context before the first call");
  {
    thole::Device device = thole::Device::cuda(1);
    const thole::ArenaOptions registered{.bytes = 8 * bytes, .max_bytes = 64 * bytes};
    const thole::ArenaOptions allocated{.bytes = 8 * bytes, .pin_method = thole::PinMethod::host_alloc};
    use_all(device, registered);
    use_all(device, allocated);
    std::thread([&] { use_all(device, registered); }).join();
    (void)device.trim_pinned();
    if (driver.is_active(0)) throw std::runtime_error("work on GPU 1 has made a context on GPU 0");
  }
  (void)thole::Device::cuda(1).name();
  if (driver.is_active(0)) throw std::runtime_error("the end of GPU 1's handles has made a context on GPU 0");
  if (!driver.is_active(1)) throw std::runtime_error("GPU 1 has no context, so that this test sees none");
  std::printf("GPU 1 has a context, and GPU 0 has none\n");
  return 0;
} catch (const std::exception& error) {
  std::printf("WRONG: %s\n", error.what());
  return 1;
}
