#include "backend/cuda/cuda_backend.hpp"

#include <atomic>
#include <cstdint>
#include <new>
#include <string>
#include <utility>

#include <cuda_runtime_api.h>

#include "backend/cuda/cuda_errors.hpp"

namespace thole::detail {
namespace {

cudaStream_t stream_of(StreamHandle stream) noexcept { return static_cast<cudaStream_t>(stream); }
cudaEvent_t event_of(EventHandle event) noexcept { return static_cast<cudaEvent_t>(event); }
cudaGraph_t graph_of(GraphHandle graph) noexcept { return static_cast<cudaGraph_t>(graph); }
cudaGraphExec_t exec_of(GraphExecHandle exec) noexcept { return static_cast<cudaGraphExec_t>(exec); }

/// The two default streams are those of the calling thread's current device; all others know theirs.
bool is_default(StreamHandle stream) noexcept {
  return stream == nullptr || stream_of(stream) == cudaStreamLegacy || stream_of(stream) == cudaStreamPerThread;
}

bool several_gpus() noexcept {
  static const bool several = cuda_device_count() > 1;
  return several;
}

/// Makes a device current while it lives, and the program's own again afterwards; costs nothing where there is one GPU.
/// A stream knows its device, but that is not enough: the default streams are the current device's, and a copy to or
/// from memory of a pool (CUDA 13.0) fails with cudaErrorInvalidValue while another device is current. CUDA: "Device
/// Management", cudaSetDevice.
class CurrentDevice {
 public:
  explicit CurrentDevice(int ordinal) noexcept {
    if (!several_gpus()) return;
    if (cudaGetDevice(&before_) != cudaSuccess) (void)cudaGetLastError();
    changed_ = before_ != ordinal && cudaSetDevice(ordinal) == cudaSuccess;
  }
  ~CurrentDevice() {
    if (changed_) (void)cudaSetDevice(before_);
  }
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

 private:
  int before_ = -1;
  bool changed_ = false;
};

/// What a graph holds: CUDA calls `release_kept` once when the graph and its executables are gone.
struct Kept {
  void* object;
  void (*release)(void*);
  std::atomic<bool> wanted{true};
};

void CUDART_CB release_kept(void* kept) {
  auto* const owned = static_cast<Kept*>(kept);
  if (owned->wanted.load(std::memory_order_acquire)) owned->release(owned->object);
  delete owned;
}

class CudaBackend final : public DeviceBackend {
 public:
  CudaBackend(int ordinal, std::string name, cudaMemPool_t pool)
      : ordinal_(ordinal), name_(std::move(name)), pool_(pool) {}
  ~CudaBackend() override { (void)cudaMemPoolDestroy(pool_); }

  bool simulated() const noexcept override { return false; }
  int ordinal() const noexcept override { return ordinal_; }
  std::string_view name() const noexcept override { return name_; }
  std::string describe(Status status) const override {
    if (status.native == 0) {
      switch (status.code) {
        case StatusCode::out_of_memory:
          return "the system has no memory";
        case StatusCode::capture:
          return "a graph capture is going on";
        case StatusCode::wrong_device:
          return "the stream belongs to another device";
        case StatusCode::device_lost:
          return "the device is lost";
        default:
          return "no error of CUDA's";
      }
    }
    const auto error = static_cast<cudaError_t>(status.native);
    return std::string(cudaGetErrorName(error)) + ": " + cudaGetErrorString(error);
  }

  // CUDA: "Memory Management", cudaHostRegister.
  Status register_host(void* data, std::size_t bytes) noexcept override {
    const CurrentDevice current(ordinal_);
    return status_of(cudaHostRegister(data, bytes, cudaHostRegisterPortable));
  }
  Status unregister_host(void* data) noexcept override {
    const CurrentDevice current(ordinal_);
    return status_of(cudaHostUnregister(data));
  }
  Status allocate_host(std::size_t bytes, void** data) noexcept override {
    const CurrentDevice current(ordinal_);
    void* made = nullptr;
    const Status status = status_of(cudaHostAlloc(&made, bytes, cudaHostAllocPortable));
    if (status.ok()) *data = made;
    return status;
  }
  Status free_host(void* data) noexcept override {
    const CurrentDevice current(ordinal_);
    return status_of(cudaFreeHost(data));
  }

  // CUDA: "Stream Ordered Memory Allocator". A pool of our own, so that the settings of the device's stay the
  // program's.
  Status allocate_device(std::size_t bytes, StreamHandle stream, void** data) noexcept override {
    const CurrentDevice current(ordinal_);
    void* made = nullptr;
    const Status status = status_of(cudaMallocFromPoolAsync(&made, bytes, pool_, stream_of(stream)));
    if (status.ok()) *data = made;
    return status;
  }
  Status free_device(void* data, StreamHandle stream) noexcept override {
    const CurrentDevice current(ordinal_);
    return status_of(cudaFreeAsync(data, stream_of(stream)));
  }

  // CUDA: "Stream Management".
  Status create_stream(StreamHandle* stream) noexcept override {
    const CurrentDevice current(ordinal_);
    cudaStream_t made = nullptr;
    const Status status = status_of(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking));
    if (status.ok()) *stream = made;
    return status;
  }
  Status destroy_stream(StreamHandle stream) noexcept override {
    return status_of(cudaStreamDestroy(stream_of(stream)));
  }
  Status synchronize_stream(StreamHandle stream) noexcept override {
    const CurrentDevice current(ordinal_);
    return status_of(cudaStreamSynchronize(stream_of(stream)));
  }
  Status stream_id(StreamHandle stream, std::uint64_t* id) noexcept override {
    const CurrentDevice current(ordinal_);
    unsigned long long number = 0;
    const Status status = status_of(cudaStreamGetId(stream_of(stream), &number));
    if (status.ok()) *id = number;
    return status;
  }
  Status check_stream(StreamHandle stream) noexcept override {
#if CUDART_VERSION >= 12080
    if (is_default(stream)) return {};
    int ordinal = 0;
    const Status status = status_of(cudaStreamGetDevice(stream_of(stream), &ordinal));
    return status.ok() && ordinal != ordinal_ ? Status{StatusCode::wrong_device} : status;
#else
    (void)stream;  // this runtime cannot tell; a stream of another device is refused by its first event
    return {};
#endif
  }
  Status capture_info(StreamHandle stream, CaptureInfo* info) noexcept override {
    const CurrentDevice current(ordinal_);
    cudaStreamCaptureStatus state = cudaStreamCaptureStatusNone;
    unsigned long long id = 0;
    cudaGraph_t graph = nullptr;
#if CUDART_VERSION >= 13000
    const cudaError_t error =
        cudaStreamGetCaptureInfo(stream_of(stream), &state, &id, &graph, nullptr, nullptr, nullptr);
#else
    const cudaError_t error = cudaStreamGetCaptureInfo_v2(stream_of(stream), &state, &id, &graph, nullptr, nullptr);
#endif
    const Status status = status_of(error);
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
  Status create_event(EventHandle* event) noexcept override {
    const CurrentDevice current(ordinal_);
    cudaEvent_t made = nullptr;
    const Status status = status_of(cudaEventCreateWithFlags(&made, cudaEventDisableTiming));
    if (status.ok()) *event = made;
    return status;
  }
  Status destroy_event(EventHandle event) noexcept override { return status_of(cudaEventDestroy(event_of(event))); }
  Status record_event(EventHandle event, StreamHandle stream) noexcept override {
    const CurrentDevice current(ordinal_);
    return status_of(cudaEventRecord(event_of(event), stream_of(stream)));
  }
  Status query_event(EventHandle event) noexcept override { return status_of(cudaEventQuery(event_of(event))); }
  Status synchronize_event(EventHandle event) noexcept override {
    return status_of(cudaEventSynchronize(event_of(event)));
  }
  Status wait_event(StreamHandle stream, EventHandle event) noexcept override {
    const CurrentDevice current(ordinal_);
    return status_of(cudaStreamWaitEvent(stream_of(stream), event_of(event), 0));
  }

  Status copy(void* destination, const void* source, std::size_t bytes, CopyKind kind,
              StreamHandle stream) noexcept override {
    const CurrentDevice current(ordinal_);
    static constexpr cudaMemcpyKind kinds[] = {cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice,
                                               cudaMemcpyHostToHost};
    return status_of(cudaMemcpyAsync(destination, source, bytes, kinds[static_cast<int>(kind)], stream_of(stream)));
  }
  Status launch_host_function(StreamHandle stream, void (*function)(void*), void* argument) noexcept override {
    const CurrentDevice current(ordinal_);
    return status_of(cudaLaunchHostFunc(stream_of(stream), function, argument));
  }

  CaptureMode exchange_capture_mode(CaptureMode mode) noexcept override {
    cudaStreamCaptureMode exchanged = native_mode(mode);
    if (cudaThreadExchangeStreamCaptureMode(&exchanged) != cudaSuccess) return mode;
    switch (exchanged) {
      case cudaStreamCaptureModeGlobal:
        return CaptureMode::global;
      case cudaStreamCaptureModeThreadLocal:
        return CaptureMode::thread_local_;
      default:
        return CaptureMode::relaxed;
    }
  }
  Status retain_in_graph(GraphHandle graph, void* object, void (*release)(void*)) noexcept override {
    // CUDA: "Graph Management", cudaGraphRetainUserObject: the graph takes over our reference.
    auto* const kept = new (std::nothrow) Kept{object, release};
    if (kept == nullptr) return {StatusCode::out_of_memory};
    cudaUserObject_t user_object = nullptr;
    cudaError_t error = cudaUserObjectCreate(&user_object, kept, release_kept, 1, cudaUserObjectNoDestructorSync);
    if (error != cudaSuccess) {
      delete kept;
      return status_of(error);
    }
    error = cudaGraphRetainUserObject(graph_of(graph), user_object, 1, cudaGraphUserObjectMove);
    if (error == cudaSuccess) return {};
    kept->wanted.store(false, std::memory_order_release);  // the object stays the caller's
    (void)cudaUserObjectRelease(user_object, 1);
    return status_of(error);
  }

  Status begin_capture(StreamHandle stream, CaptureMode mode) noexcept override {
    const CurrentDevice current(ordinal_);
    return status_of(cudaStreamBeginCapture(stream_of(stream), native_mode(mode)));
  }
  Status end_capture(StreamHandle stream, GraphHandle* graph) noexcept override {
    const CurrentDevice current(ordinal_);
    cudaGraph_t made = nullptr;
    const Status status = status_of(cudaStreamEndCapture(stream_of(stream), &made));
    if (status.ok()) *graph = made;
    return status;
  }
  Status instantiate_graph(GraphHandle graph, GraphExecHandle* exec) noexcept override {
    const CurrentDevice current(ordinal_);
    cudaGraphExec_t made = nullptr;
    const Status status = status_of(cudaGraphInstantiate(&made, graph_of(graph), 0));
    if (status.ok()) *exec = made;
    return status;
  }
  Status launch_graph(GraphExecHandle exec, StreamHandle stream) noexcept override {
    const CurrentDevice current(ordinal_);
    return status_of(cudaGraphLaunch(exec_of(exec), stream_of(stream)));
  }
  Status destroy_graph(GraphHandle graph) noexcept override { return status_of(cudaGraphDestroy(graph_of(graph))); }
  Status destroy_graph_exec(GraphExecHandle exec) noexcept override {
    return status_of(cudaGraphExecDestroy(exec_of(exec)));
  }

 private:
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
  const cudaMemPool_t pool_;
};

}  // namespace

int cuda_device_count() noexcept {
  int count = 0;
  return status_of(cudaGetDeviceCount(&count)).ok() ? count : 0;
}

Result<std::shared_ptr<DeviceBackend>> make_cuda_backend(int ordinal) {
  const auto failed = [ordinal](cudaError_t error, const char* call) {
    const Status status = status_of(error);
    const auto text = "Device::cuda(" + std::to_string(ordinal) + "): " + call + " failed: " + cudaGetErrorName(error) +
                      ": " + cudaGetErrorString(error);
    return tl::unexpected(Error(status.code == StatusCode::device_lost ? Errc::device_lost : Errc::device_error, text));
  };
  if (const int count = cuda_device_count(); ordinal < 0 || ordinal >= count)
    return tl::unexpected(Error(Errc::no_device, "Device::cuda: there is no GPU with ordinal " +
                                                     std::to_string(ordinal) + "; CUDA finds " +
                                                     std::to_string(count)));
  const CurrentDevice current(ordinal);
  // Initialises the primary context. CUDA: "Device Management", cudaInitDevice.
  if (const auto error = cudaInitDevice(ordinal, 0, 0); error != cudaSuccess) return failed(error, "cudaInitDevice");
  cudaDeviceProp properties{};
  if (const auto error = cudaGetDeviceProperties(&properties, ordinal); error != cudaSuccess)
    return failed(error, "cudaGetDeviceProperties");
  cudaMemPoolProps wanted{};
  wanted.allocType = cudaMemAllocationTypePinned;
  wanted.location.type = cudaMemLocationTypeDevice;
  wanted.location.id = ordinal;
  cudaMemPool_t pool = nullptr;
  if (const auto error = cudaMemPoolCreate(&pool, &wanted); error != cudaSuccess)
    return failed(error, "cudaMemPoolCreate");
  // Memory that a stream has freed stays for the next allocation, instead of going back to the system at each
  // synchronisation.
  std::uint64_t threshold = UINT64_MAX;
  if (const auto error = cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold);
      error != cudaSuccess) {
    (void)cudaMemPoolDestroy(pool);
    return failed(error, "cudaMemPoolSetAttribute");
  }
  return std::make_shared<CudaBackend>(ordinal, properties.name, pool);
}

}  // namespace thole::detail
