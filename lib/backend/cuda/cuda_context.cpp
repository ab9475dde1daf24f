#include "backend/cuda/cuda_context.hpp"

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <string>

#include <cudaTypedefs.h>
#include <dlfcn.h>

#include "base/fork.hpp"

namespace thole::inline v0_1::detail {
namespace {

// The driver's functions come through the runtime, so that the library needs no libcuda where there is no GPU. Written
// before the first device is made, and constant from then on.
struct Driver {
  PFN_cuDeviceGet_v2000 get_device = nullptr;
  PFN_cuDevicePrimaryCtxRetain_v7000 retain = nullptr;
  PFN_cuCtxGetCurrent_v4000 current = nullptr;
  PFN_cuCtxPushCurrent_v4000 push = nullptr;
  PFN_cuCtxPopCurrent_v4000 pop = nullptr;
  PFN_cuStreamGetCtx_v9020 stream_context = nullptr;
  CUresult (*record_context)(CUcontext, CUevent) = nullptr;  // cuCtxRecordEvent, since 12.5: may be missing
  const char* missing = nullptr;  // the first function that the driver does not have, and must have
};

/// CUDA: "Driver Entry Point Access". `version` is the one that brought the function with this signature.
template <class Function>
void find(Driver& driver, Function& function, const char* name, [[maybe_unused]] unsigned version) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult answer{};
#if CUDART_VERSION >= 12050
  const cudaError_t error = cudaGetDriverEntryPointByVersion(name, &found, version, cudaEnableDefault, &answer);
#else
  const cudaError_t error = cudaGetDriverEntryPoint(name, &found, cudaEnableDefault, &answer);
#endif
  if (error != cudaSuccess) (void)cudaGetLastError();
  if (error == cudaSuccess && answer == cudaDriverEntryPointSuccess && found != nullptr) {
    function = reinterpret_cast<Function>(found);
  } else if (driver.missing == nullptr) {
    driver.missing = name;
  }
}

const Driver& driver() noexcept {
  static const Driver made = [] {
    Driver driver;
    find(driver, driver.get_device, "cuDeviceGet", 2000);
    find(driver, driver.retain, "cuDevicePrimaryCtxRetain", 7000);
    find(driver, driver.current, "cuCtxGetCurrent", 4000);
    find(driver, driver.push, "cuCtxPushCurrent", 4000);
    find(driver, driver.pop, "cuCtxPopCurrent", 4000);
    find(driver, driver.stream_context, "cuStreamGetCtx", 9020);
    const char* const missing = driver.missing;
    find(driver, driver.record_context, "cuCtxRecordEvent", 12050);
    driver.missing = missing;
    return driver;
  }();
  return made;
}

}  // namespace

bool may_call_cuda() noexcept {
  static constinit std::atomic<std::int64_t> first_caller{-1};  // the number of a process: pairs with nothing
  std::int64_t expected = -1;
  const std::int64_t self = this_process();
  return first_caller.compare_exchange_strong(expected, self, std::memory_order_relaxed) || expected == self;
}

namespace {

// By ordinal, once retained: it is never let go of, and so the same for ever. Relaxed: a handle, which nothing is read
// through.
constexpr std::size_t most_known = 64;
std::atomic<CUcontext> primary_contexts[most_known];

}  // namespace

Result<CUcontext> retain_primary_context(int ordinal) {
  const auto place = static_cast<std::size_t>(ordinal);
  if (place < most_known)
    if (CUcontext const known = primary_contexts[place].load(std::memory_order_relaxed); known != nullptr) return known;
  const auto failed = [ordinal](const std::string& what) {
    return tl::unexpected(Error(Errc::device_error, "Device::cuda(" + std::to_string(ordinal) + "): " + what));
  };
  if (driver().missing != nullptr) return failed(std::string("the driver has no ") + driver().missing);
  CUdevice device = 0;
  if (const CUresult error = driver().get_device(&device, ordinal); error != CUDA_SUCCESS)
    return failed("cuDeviceGet failed: error " + std::to_string(error));
  CUcontext context = nullptr;
  if (const CUresult error = driver().retain(&context, device); error != CUDA_SUCCESS)
    return failed("cuDevicePrimaryCtxRetain failed: error " + std::to_string(error));
  if (place < most_known) primary_contexts[place].store(context, std::memory_order_relaxed);
  return context;
}

bool current_is_primary(int ordinal) noexcept try {
  CUcontext current = nullptr;
  // None: the runtime makes the primary one current with its first call.
  if (driver().current == nullptr || driver().current(&current) != CUDA_SUCCESS || current == nullptr) return true;
  const auto primary = retain_primary_context(ordinal);
  return primary && *primary == current;
} catch (const std::bad_alloc&) {
  return false;
}

namespace {

/// Asked of the library itself, if it is loaded: the runtime's calls would load and initialise it.
bool driver_is_initialised() noexcept {
  void* const library = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
  if (library == nullptr) return false;
  const auto count_devices = reinterpret_cast<CUresult (*)(int*)>(dlsym(library, "cuDeviceGetCount"));
  int count = 0;
  const bool is = count_devices == nullptr || count_devices(&count) != CUDA_ERROR_NOT_INITIALIZED;
  (void)dlclose(library);
  return is;
}

}  // namespace

Result<void> set_connections(int ordinal, int connections) {
  constexpr const char* variable = "CUDA_DEVICE_MAX_CONNECTIONS";
  const auto failed = [ordinal](Errc code, const std::string& what) {
    return tl::unexpected(Error(code, "Device::cuda(" + std::to_string(ordinal) + "): " + what));
  };
  const std::string wanted = std::to_string(connections);
  if (const char* const now = std::getenv(variable); now != nullptr && wanted == now) return {};
  if (driver_is_initialised())
    return failed(Errc::invalid_argument, wanted + " connections come too late: CUDA is in use already, and takes " +
                                              variable + " as it was then");
  if (setenv(variable, wanted.c_str(), 1) != 0)
    return failed(Errc::out_of_memory, "no memory for " + wanted + " connections");
  return {};
}

cudaError_t record_in_context(CUcontext context, cudaEvent_t event) noexcept {
  if (driver().record_context == nullptr) return cudaDeviceSynchronize();
  return static_cast<cudaError_t>(driver().record_context(context, event));  // the numbers are the same
}

cudaError_t context_of(CUstream stream, CUcontext* context) noexcept {
  // No processor has such an address: a simulated stream's handle, which the driver would follow.
  const auto top = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(stream)) >> 56;
  if (top != 0 && top != -1) return cudaErrorInvalidResourceHandle;
  return static_cast<cudaError_t>(driver().stream_context(stream, context));  // the numbers are the same
}

CurrentContext::CurrentContext(CUcontext wanted) noexcept {
  CUcontext current = nullptr;
  if (driver().current(&current) == CUDA_SUCCESS && current == wanted) return;
  pushed_ = driver().push(wanted) == CUDA_SUCCESS;
}

CurrentContext::~CurrentContext() {
  CUcontext popped = nullptr;
  if (pushed_) (void)driver().pop(&popped);
}

}  // namespace thole::inline v0_1::detail
