#include "backend/cuda/cuda_backend.hpp"

#include <array>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <string>
#include <utility>

#include <cuda_runtime_api.h>

#include "backend/capture_guard.hpp"
#include "backend/cuda/cuda_context.hpp"
#include "backend/cuda/cuda_errors.hpp"
#include "base/fork.hpp"
#include "base/host_function.hpp"
#include "base/pci.hpp"
#include "base/process_exit.hpp"

namespace thole::inline v0_1::detail {
namespace {

cudaStream_t stream_of(StreamHandle stream) noexcept { return static_cast<cudaStream_t>(stream); }
cudaEvent_t event_of(EventHandle event) noexcept { return static_cast<cudaEvent_t>(event); }
cudaGraph_t graph_of(GraphHandle graph) noexcept { return static_cast<cudaGraph_t>(graph); }
cudaGraphExec_t exec_of(GraphExecHandle exec) noexcept { return static_cast<cudaGraphExec_t>(exec); }

/// Whatever else the driver says of a stream that it does not know, it means that.
Status unless_unknown(Status status) noexcept {
  if (status.ok() || status.code == StatusCode::device_lost || status.code == StatusCode::unloading) return status;
  return {StatusCode::invalid, cudaErrorInvalidResourceHandle};
}

/// The default streams are those of the current context; all others know theirs.
bool is_default(StreamHandle stream) noexcept {
  return stream == nullptr || stream_of(stream) == cudaStreamLegacy || stream_of(stream) == cudaStreamPerThread;
}

/// What a graph holds: CUDA calls `release_kept` once when the graph and its executables are gone.
struct Kept {
  void* object;
  void (*release)(void*);
  std::atomic<bool> wanted{true};
};

void CUDART_CB release_kept(void* kept) {
  const InHostFunction no_calls;  // on a thread of the driver's
  auto* const owned = static_cast<Kept*>(kept);
  if (owned->wanted.load(std::memory_order_acquire)) owned->release(owned->object);
  delete owned;
}

class CudaBackend final : public DeviceBackend {
 public:
  /// `same_addresses`: kernels may use the CPU's addresses of registered memory. `knows_read_only`: the driver takes
  /// cudaHostRegisterReadOnly; others refuse the flag, and what is not writable without it.
  CudaBackend(int ordinal, std::string name, int numa_node, CUcontext context, bool same_addresses,
              bool knows_read_only)
      : ordinal_(ordinal),
        name_(std::move(name)),
        numa_node_(numa_node),
        context_(context),
        same_addresses_(same_addresses),
        knows_read_only_(knows_read_only) {}
  ~CudaBackend() override {
    if (pool_ != nullptr) (void)call([&] { return cudaMemPoolDestroy(pool_); });
  }

  /// The device's memory comes from a pool of our own, so that the settings of the device's stay the program's. CUDA:
  /// "Stream Ordered Memory Allocator".
  Status make_pool() noexcept {
    cudaMemPoolProps wanted{};
    wanted.allocType = cudaMemAllocationTypePinned;
    wanted.location.type = cudaMemLocationTypeDevice;
    wanted.location.id = ordinal_;
    Status status = call([&] { return cudaMemPoolCreate(&pool_, &wanted); });
    // Memory that a stream has freed stays for the next allocation, instead of going back to the system at each
    // synchronisation; and no stream is made to wait for another one to get it.
    std::uint64_t threshold = UINT64_MAX;
    int wait_for_others = 0;
    if (status.ok())
      status = call([&] { return cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &threshold); });
    if (status.ok()) {
      status = call(
          [&] { return cudaMemPoolSetAttribute(pool_, cudaMemPoolReuseAllowInternalDependencies, &wait_for_others); });
    }
    return status;
  }

  bool simulated() const noexcept override { return false; }
  int ordinal() const noexcept override { return ordinal_; }
  std::string_view name() const noexcept override { return name_; }
  int numa_node() const noexcept override { return numa_node_; }
  std::string describe(Status status) const override {
    if (process_ != this_process()) return "the device was made by another process";
    if (status.native == 0) {
      switch (status.code) {
        case StatusCode::out_of_memory:
          return "the system has no memory";
        case StatusCode::capture:
          return "a graph capture is going on";
        case StatusCode::wrong_device:
          return "the stream belongs to another device, or to a context that is not the device's primary one";
        case StatusCode::device_lost:
          return "the device is lost";
        case StatusCode::unloading:
          return "the process is ending";
        default:
          return "no error of CUDA's";
      }
    }
    const auto error = static_cast<cudaError_t>(status.native);
    return std::string(cudaGetErrorName(error)) + ": " + cudaGetErrorString(error);
  }

  // CUDA: "Memory Management", cudaHostRegister. Mapped, so that kernels may use it themselves.
  Status register_host(void* data, std::size_t bytes, HostAccess access) noexcept override {
    const unsigned read_only = access == HostAccess::read_only && knows_read_only_ ? cudaHostRegisterReadOnly : 0U;
    return call(
        [&] { return cudaHostRegister(data, bytes, cudaHostRegisterPortable | cudaHostRegisterMapped | read_only); });
  }
  Status unregister_host(void* data) noexcept override {
    return call([&] { return cudaHostUnregister(data); });
  }
  Status allocate_host(std::size_t bytes, void** data) noexcept override {
    void* made = nullptr;
    const Status status = call([&] {
      return bytes == 0 ? cudaErrorInvalidValue
                        : cudaHostAlloc(&made, bytes, cudaHostAllocPortable | cudaHostAllocMapped);
    });
    if (status.ok()) *data = made;
    return status;
  }
  Status free_host(void* data) noexcept override {
    return call([&] { return cudaFreeHost(data); });
  }

  Status device_address(const void* data, const void** device) noexcept override {
    if (same_addresses_) {
      *device = data;
      return {};
    }
    void* found = nullptr;
    const Status status = call([&] { return cudaHostGetDevicePointer(&found, const_cast<void*>(data), 0); });
    if (status.ok()) *device = found;
    return status;
  }

  // CUDA: "Stream Ordered Memory Allocator".
  Status allocate_device(std::size_t bytes, StreamHandle stream, void** data) noexcept override {
    void* made = nullptr;
    const Status status = call([&] {
      return bytes == 0 ? cudaErrorInvalidValue : cudaMallocFromPoolAsync(&made, bytes, pool_, stream_of(stream));
    });
    if (status.ok()) *data = made;
    return status;
  }
  Status free_device(void* data, StreamHandle stream) noexcept override {
    return call([&] { return cudaFreeAsync(data, stream_of(stream)); });
  }

  // CUDA: "Stream Management".
  Status create_stream(StreamHandle* stream, int priority) noexcept override {
    cudaStream_t made = nullptr;
    const Status status = call([&] { return cudaStreamCreateWithPriority(&made, cudaStreamNonBlocking, priority); });
    if (status.ok()) *stream = made;
    return status;
  }
  Status destroy_stream(StreamHandle stream) noexcept override {
    return call([&] { return cudaStreamDestroy(stream_of(stream)); });
  }
  Status synchronize_stream(StreamHandle stream) noexcept override {
    return call([&] { return cudaStreamSynchronize(stream_of(stream)); });
  }
  Status stream_id(StreamHandle stream, std::uint64_t* id) noexcept override {
    unsigned long long number = 0;
    const Status status = call([&] { return cudaStreamGetId(stream_of(stream), &number); });
    if (status.ok()) *id = number;
    return status;
  }
  Status stream_priority(StreamHandle stream, int* priority) noexcept override {
    return call([&] { return cudaStreamGetPriority(stream_of(stream), priority); });
  }
  Status check_stream(StreamHandle stream) noexcept override {
    if (process_ != this_process()) return {StatusCode::device_lost};
    if (process_is_ending()) return {StatusCode::unloading};
    if (is_default(stream)) return {};
    CUcontext context = nullptr;
    const Status asked = status_of(context_of(stream_of(stream), &context));
    if (asked.code == StatusCode::capture) return {};  // void: the driver knows the stream, and says no more
    if (const Status status = unless_unknown(asked); !status.ok()) return status;
    return {context == context_ ? StatusCode::ok : StatusCode::wrong_device};
  }
  Status capture_info(StreamHandle stream, CaptureInfo* info) noexcept override {
    cudaStreamCaptureStatus state = cudaStreamCaptureStatusNone;
    unsigned long long id = 0;
    cudaGraph_t graph = nullptr;
    const Status status = call([&] {
#if CUDART_VERSION >= 13000
      return cudaStreamGetCaptureInfo(stream_of(stream), &state, &id, &graph, nullptr, nullptr, nullptr);
#else
      return cudaStreamGetCaptureInfo_v2(stream_of(stream), &state, &id, &graph, nullptr, nullptr);
#endif
    });
    if (!status.ok()) return status;
    switch (state) {
      case cudaStreamCaptureStatusNone:
        *info = {};
        break;
      case cudaStreamCaptureStatusActive:
        *info = {CaptureInfo::State::active, id, graph};
        break;
      default:
        *info = {CaptureInfo::State::invalidated, id, nullptr};
    }
    return status;
  }

  // CUDA: "Event Management".
  Status create_event(EventHandle* event, EventFlags flags) noexcept override {
    cudaEvent_t made = nullptr;
    const unsigned wanted =
        (flags.timing ? 0U : cudaEventDisableTiming) | (flags.blocking ? cudaEventBlockingSync : 0U);
    const Status status = call([&] { return cudaEventCreateWithFlags(&made, wanted); });
    if (status.ok()) *event = made;
    return status;
  }
  Status destroy_event(EventHandle event) noexcept override {
    return call([&] { return cudaEventDestroy(event_of(event)); });
  }
  Status record_event(EventHandle event, StreamHandle stream) noexcept override {
    return call([&] { return cudaEventRecord(event_of(event), stream_of(stream)); });
  }
  Status record_device(EventHandle event) noexcept override {
    return call([&] { return record_in_context(context_, event_of(event)); });
  }
  Status query_event(EventHandle event) noexcept override {
    return call([&] { return cudaEventQuery(event_of(event)); });
  }
  Status synchronize_event(EventHandle event) noexcept override {
    return call([&] { return cudaEventSynchronize(event_of(event)); });
  }
  Status elapsed(EventHandle from, EventHandle to, std::chrono::nanoseconds* time) noexcept override {
    float milliseconds = 0;
    const Status status = call([&] { return cudaEventElapsedTime(&milliseconds, event_of(from), event_of(to)); });
    if (status.ok()) *time = std::chrono::nanoseconds(static_cast<std::int64_t>(double{milliseconds} * 1e6));
    return status;
  }
  Status wait_event(StreamHandle stream, EventHandle event) noexcept override {
    return call([&] { return cudaStreamWaitEvent(stream_of(stream), event_of(event), 0); });
  }

  Status copy(void* destination, const void* source, std::size_t bytes, CopyKind kind,
              StreamHandle stream) noexcept override {
    static constexpr cudaMemcpyKind kinds[] = {cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice,
                                               cudaMemcpyHostToHost};
    return call(
        [&] { return cudaMemcpyAsync(destination, source, bytes, kinds[static_cast<int>(kind)], stream_of(stream)); });
  }
  Status launch_host_function(StreamHandle stream, void (*function)(void*), void* argument) noexcept override {
    return call([&] { return cudaLaunchHostFunc(stream_of(stream), function, argument); });
  }

  CaptureMode exchange_capture_mode(CaptureMode mode) noexcept override {
    cudaStreamCaptureMode exchanged = native_mode(mode);
    if (!call([&] { return cudaThreadExchangeStreamCaptureMode(&exchanged); }).ok()) return mode;
    switch (exchanged) {
      case cudaStreamCaptureModeGlobal:
        return CaptureMode::global;
      case cudaStreamCaptureModeThreadLocal:
        return CaptureMode::thread_local_;
      default:
        return CaptureMode::relaxed;
    }
  }
  Status record_event_in_graph(EventHandle event, StreamHandle stream) noexcept override {
    // CUDA: "Event Management", cudaEventRecordWithFlags: a node of the graph; refused where the stream does not
    // capture.
    return call([&] { return cudaEventRecordWithFlags(event_of(event), stream_of(stream), cudaEventRecordExternal); });
  }
  Status retain_in_graph(GraphHandle graph, void* object, void (*release)(void*)) noexcept override {
    // CUDA: "Graph Management", cudaGraphRetainUserObject: the graph takes over our reference.
    auto* const kept = new (std::nothrow) Kept{object, release};
    if (kept == nullptr) return {StatusCode::out_of_memory};
    cudaUserObject_t user_object = nullptr;
    Status status =
        call([&] { return cudaUserObjectCreate(&user_object, kept, release_kept, 1, cudaUserObjectNoDestructorSync); });
    if (!status.ok()) {
      delete kept;
      return status;
    }
    status = call([&] { return cudaGraphRetainUserObject(graph_of(graph), user_object, 1, cudaGraphUserObjectMove); });
    if (status.ok()) return status;
    kept->wanted.store(false, std::memory_order_release);  // the object stays the caller's
    (void)call([&] { return cudaUserObjectRelease(user_object, 1); });
    return status;
  }

  Status begin_capture(StreamHandle stream, CaptureMode mode) noexcept override {
    return call([&] { return cudaStreamBeginCapture(stream_of(stream), native_mode(mode)); });
  }
  Status end_capture(StreamHandle stream, GraphHandle* graph) noexcept override {
    cudaGraph_t made = nullptr;
    const Status status = call([&] { return cudaStreamEndCapture(stream_of(stream), &made); });
    if (status.ok()) *graph = made;
    return status;
  }
  Status graph_nodes(GraphHandle graph, std::size_t* count) noexcept override {
    return call([&] { return cudaGraphGetNodes(graph_of(graph), nullptr, count); });
  }
  Status instantiate_graph(GraphHandle graph, GraphExecHandle* exec) noexcept override {
    cudaGraphExec_t made = nullptr;
    const Status status = call([&] { return cudaGraphInstantiate(&made, graph_of(graph), 0); });
    if (status.ok()) *exec = made;
    return status;
  }
  Status launch_graph(GraphExecHandle exec, StreamHandle stream) noexcept override {
    return call([&] { return cudaGraphLaunch(exec_of(exec), stream_of(stream)); });
  }
  Status destroy_graph(GraphHandle graph) noexcept override {
    return call([&] { return cudaGraphDestroy(graph_of(graph)); });
  }
  Status destroy_graph_exec(GraphExecHandle exec) noexcept override {
    return call([&] { return cudaGraphExecDestroy(exec_of(exec)); });
  }

 private:
  /// Each call of CUDA's goes through here: never in a forked child, nor when the process ends (the runtime's own
  /// functions look whether the driver unloads, the driver's do not), and with the device's context current.
  template <class F>
  Status call(F f) noexcept {
    if (process_ != this_process()) return {StatusCode::device_lost};
    if (process_is_ending()) return {StatusCode::unloading};
    const CurrentContext current(context_);
    return status_of(f());
  }

  static cudaStreamCaptureMode native_mode(CaptureMode mode) noexcept {
    switch (mode) {
      case CaptureMode::global:
        return cudaStreamCaptureModeGlobal;
      case CaptureMode::thread_local_:
        return cudaStreamCaptureModeThreadLocal;
      default:
        return cudaStreamCaptureModeRelaxed;
    }
  }

  const int ordinal_;
  const std::string name_;
  const int numa_node_;
  const CUcontext context_;
  const bool same_addresses_;
  const bool knows_read_only_;
  const std::uint32_t process_ = this_process();  // that made it
  cudaMemPool_t pool_ = nullptr;
};

/// Containers often hide one of the two.
int numa_node_of(int ordinal) noexcept {
  int node = -1;
#if CUDART_VERSION >= 12020
  if (status_of(cudaDeviceGetAttribute(&node, cudaDevAttrHostNumaId, ordinal)).ok() && node >= 0) return node;
#endif
  std::array<char, 32> address{};
  if (!status_of(cudaDeviceGetPCIBusId(address.data(), static_cast<int>(address.size()), ordinal)).ok()) return -1;
  return numa_node_of_pci_device(address.data());
}

}  // namespace

int cuda_device_count() noexcept {
  int count = 0;
  return may_call_cuda() && !process_is_ending() && status_of(cudaGetDeviceCount(&count)).ok() ? count : 0;
}

Status cuda_device_of(StreamHandle stream, int* ordinal) noexcept {
  if (!may_call_cuda()) return {StatusCode::device_lost};
  if (process_is_ending()) return {StatusCode::unloading};
  if (is_default(stream)) {
    const Status status = status_of(cudaGetDevice(ordinal));
    return status.ok() && !current_is_primary(*ordinal) ? Status{StatusCode::wrong_device} : status;
  }
  CUcontext context = nullptr;
  const Status asked = status_of(context_of(stream_of(stream), &context));
  if (asked.code == StatusCode::capture) return asked;
  if (const Status status = unless_unknown(asked); !status.ok()) return status;
  const CurrentContext current(context);
  return status_of(cudaGetDevice(ordinal));
}

Result<void> set_cuda_connections(int ordinal, int connections) {
  if (process_is_ending())
    return tl::unexpected(
        Error(Errc::device_lost, "Device::cuda(" + std::to_string(ordinal) + "): the process is ending"));
  return set_connections(ordinal, connections);
}

Result<std::shared_ptr<DeviceBackend>> make_cuda_backend(int ordinal, int connections) {
  const auto refused = [ordinal](Errc code, const std::string& why) {
    return tl::unexpected(Error(code, "Device::cuda(" + std::to_string(ordinal) + "): " + why));
  };
  if (!may_call_cuda())
    return refused(Errc::no_device, "this process is a fork of one that has used CUDA, and cannot use it itself");
  if (process_is_ending()) return refused(Errc::device_lost, "the process is ending");
  if (connections != 0)  // before any call that initialises the driver
    if (auto set = set_connections(ordinal, connections); !set) return tl::unexpected(std::move(set.error()));
  if (const int count = cuda_device_count(); ordinal < 0 || ordinal >= count)
    return refused(Errc::no_device, "there is no GPU with this ordinal; CUDA finds " + std::to_string(count));
  auto context = retain_primary_context(ordinal);
  if (!context) return tl::unexpected(std::move(context.error()));
  const CurrentContext current(*context);
  cudaDeviceProp properties{};
  int has_pools = 0;
  int maps_memory = 0;
  int same_addresses = 0;
  int knows_read_only = 0;
  Status status = status_of(cudaGetDeviceProperties(&properties, ordinal));
  const auto ask = [&](int* answer, cudaDeviceAttr attribute) {
    if (status.ok()) status = status_of(cudaDeviceGetAttribute(answer, attribute, ordinal));
  };
  ask(&has_pools, cudaDevAttrMemoryPoolsSupported);
  ask(&maps_memory, cudaDevAttrCanMapHostMemory);
  ask(&same_addresses, cudaDevAttrCanUseHostPointerForRegisteredMem);
  ask(&knows_read_only, cudaDevAttrHostRegisterReadOnlySupported);
  const auto backend = std::make_shared<CudaBackend>(ordinal, properties.name, numa_node_of(ordinal), *context,
                                                     maps_memory == 0 || same_addresses != 0, knows_read_only != 0);
  if (status.ok() && has_pools == 0) {
    return refused(Errc::no_device, std::string(properties.name) +
                                        " has no memory pools, so that device memory cannot be freed in stream order");
  }
  const CaptureGuard guard(*backend);
  if (status.ok()) status = backend->make_pool();
  if (!status.ok()) {
    return refused(status.code == StatusCode::device_lost ? Errc::device_lost : Errc::device_error,
                   "making the device failed: " + backend->describe(status));
  }
  return backend;
}

}  // namespace thole::inline v0_1::detail
