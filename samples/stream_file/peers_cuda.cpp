// The ways on a GPU: CUDA's own calls, as a program without thole makes them.

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <thole/cuda.hpp>

#include "peers.hpp"

namespace stream_file {
namespace {

void check(cudaError_t error, const char* call) {
  if (error != cudaSuccess)
    throw std::runtime_error(std::string(call) + " failed in the comparison: " + cudaGetErrorString(error));
}

struct FreeHost {
  void operator()(unsigned char* data) const { cudaFreeHost(data); }
};
struct FreeDevice {
  void operator()(unsigned char* data) const { cudaFree(data); }
};
struct DestroyStream {
  void operator()(cudaStream_t stream) const { cudaStreamDestroy(stream); }
};
struct DestroyEvent {
  void operator()(cudaEvent_t event) const { cudaEventDestroy(event); }
};
using HostMemory = std::unique_ptr<unsigned char[], FreeHost>;
using DeviceMemory = std::unique_ptr<unsigned char[], FreeDevice>;
using Stream = std::unique_ptr<CUstream_st, DestroyStream>;
using Event = std::unique_ptr<CUevent_st, DestroyEvent>;

HostMemory host_memory(std::size_t bytes) {
  void* data = nullptr;
  check(cudaHostAlloc(&data, bytes, cudaHostAllocDefault), "cudaHostAlloc");
  return HostMemory(static_cast<unsigned char*>(data));
}
DeviceMemory device_memory(std::size_t bytes) {
  void* data = nullptr;
  check(cudaMalloc(&data, bytes), "cudaMalloc");
  return DeviceMemory(static_cast<unsigned char*>(data));
}
Stream new_stream() {
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  return Stream(stream);
}
Event new_event() {
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  return Event(event);
}
void up(void* to, const void* from, std::size_t bytes, const Stream& stream) {
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream.get()), "cudaMemcpyAsync");
}
void down(void* to, const void* from, std::size_t bytes, const Stream& stream) {
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream.get()), "cudaMemcpyAsync");
}
void finish(const Stream& stream) { check(cudaStreamSynchronize(stream.get()), "cudaStreamSynchronize"); }

std::size_t at_most(const PeerJob& job, std::size_t most) {
  return static_cast<std::size_t>(std::min<std::uint64_t>(most, job.bytes));
}

double link(const PeerJob& job) {
  const std::size_t most = at_most(job, job.round_trip ? pinned_for_link / 2 : pinned_for_link);
  const auto there = host_memory(most), back = host_memory(job.round_trip ? most : 1);
  const auto on_device = device_memory(most), other = device_memory(most);
  const auto upwards = new_stream(), downwards = new_stream();
  std::memset(there.get(), 1, most);
  up(on_device.get(), there.get(), most, upwards);
  finish(upwards);
  const Stopwatch watch;
  in_parts(job.bytes, most, [&](std::size_t bytes) {
    up(on_device.get(), there.get(), bytes, upwards);
    if (job.round_trip) down(back.get(), other.get(), bytes, downwards);
  });
  finish(upwards);
  finish(downwards);
  return watch.seconds();
}

double from_mapping(const PeerJob& job) {
  const std::size_t most = at_most(job, std::size_t{256} << 20);
  const auto on_device = device_memory(most);
  std::vector<unsigned char> back(job.round_trip ? most : 0);
  const Stopwatch watch;
  std::uint64_t left = job.bytes;
  for (const InputFile& file : job.files) {
    if (left == 0) break;
    if (*file.size() == 0) continue;
    const Mapping mapping(file);
    Bytes bytes = mapping.bytes();
    bytes = bytes.first(static_cast<std::size_t>(std::min<std::uint64_t>(bytes.size(), left)));
    left -= bytes.size();
    in_parts(bytes.size(), most, [&](std::size_t part) {
      check(cudaMemcpy(on_device.get(), bytes.data(), part, cudaMemcpyHostToDevice), "cudaMemcpy");
      if (job.round_trip) check(cudaMemcpy(back.data(), on_device.get(), part, cudaMemcpyDeviceToHost), "cudaMemcpy");
      bytes = bytes.subspan(part);
    });
  }
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  return watch.seconds();
}

double double_buffer(const PeerJob& job) {
  const std::size_t chunk = at_most(job, job.chunk);
  const std::array buffers{host_memory(chunk), host_memory(chunk)};
  const std::array done{new_event(), new_event()};
  const auto on_device = device_memory(chunk);
  const auto stream = new_stream();
  const Stopwatch watch;
  std::size_t turn = 0;
  each_piece(job, [&](const Piece& piece) {
    check(cudaEventSynchronize(done[turn].get()), "cudaEventSynchronize");
    piece.file->read_at(piece.offset, {buffers[turn].get(), piece.bytes});
    up(on_device.get(), buffers[turn].get(), piece.bytes, stream);
    if (job.round_trip) down(buffers[turn].get(), on_device.get(), piece.bytes, stream);
    check(cudaEventRecord(done[turn].get(), stream.get()), "cudaEventRecord");
    turn = 1 - turn;
  });
  finish(stream);
  return watch.seconds();
}

double fresh_memory(const PeerJob& job) {
  const std::size_t chunk = at_most(job, job.chunk);
  const auto on_device = device_memory(chunk);
  const auto stream = new_stream();
  const Stopwatch watch;
  each_piece(job, [&](const Piece& piece) {
    const auto memory = host_memory(chunk);
    piece.file->read_at(piece.offset, {memory.get(), piece.bytes});
    up(on_device.get(), memory.get(), piece.bytes, stream);
    if (job.round_trip) down(memory.get(), on_device.get(), piece.bytes, stream);
    finish(stream);
  });
  return watch.seconds();
}

}  // namespace

std::vector<Peer> cuda_peers(const thole::Device& device) {
  const auto way = [gpu = device.ordinal()](double (*run)(const PeerJob&)) {
    return [gpu, run](const PeerJob& job) {
      check(cudaSetDevice(gpu), "cudaSetDevice");
      return run(job);
    };
  };
  return {{link_key, "the bare link: pinned, large copies", way(link)},
          {"mapping", "cudaMemcpy from a mapping of the file", way(from_mapping)},
          {"double_buffer", "a hand-written double buffer, 1 thread", way(double_buffer)},
          {"host_alloc", "cudaHostAlloc, cudaFreeHost for each chunk", way(fresh_memory)}};
}

}  // namespace stream_file
