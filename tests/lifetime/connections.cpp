// DeviceOptions::connections takes effect, against what the environment says. CUDA reads its variable when it makes the
// GPU's context, so each number needs a process of its own: connections NUMBER, or `connections late`. A simulated
// device's streams share nothing, whatever the number. Exit status 77: what a simulated device has no part in, or a
// GPU without tests' kernels.

#include <atomic>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <thole/thole.hpp>

#include "../support/gpu_code.hpp"

namespace {

using thole::Errc, thole::Error;

constexpr std::size_t bytes = 4096;
constexpr const char* variable = "CUDA_DEVICE_MAX_CONNECTIONS";
bool good = true;

void must(bool condition, const std::string& what) {
  std::printf("%s: %s\n", condition ? "good" : "WRONG", what.c_str());
  good = good && condition;
}

/// A stream is stuck, 19 wait for it, and 20 have work of their own: how many of these are held all the same, however
/// often they are asked. Their work is copies to the host, which a GPU holds as it holds kernels; copies to the device
/// have engines of their own and go on.
int held_beside_a_stuck_stream(const thole::Device& device) {
  constexpr std::size_t waiting = 19, others = 20;
  constexpr int very_often = 20'000;
  const thole::PinnedHeap heap(thole::PinnedArena(device, {.bytes = std::size_t{1} << 20}));
  std::vector<thole::Stream> streams;
  std::vector<thole::DeviceBuffer<std::byte>> targets;
  for (std::size_t i = 0; i != 1 + waiting + others; ++i) {
    streams.emplace_back(device);
    targets.emplace_back(streams.back(), bytes);
    streams.back().synchronize();
  }
  std::vector<thole::PinnedBuffer<std::byte>> copies;
  // On a GPU by a kernel: what waits for a host function waits in the driver, and holds no connection.
  auto flag = heap.make_buffer<int>(1, 0);
  int* const opened = flag.unsynchronized_data();
  if (device.backend() == thole::Backend::simulated)
    device.simulation().hold(streams[0]);
  else if (!support::gpu::launch_gate(device.ordinal(), streams[0].native(), opened))
    throw std::runtime_error("no kernel can be launched");
  const thole::Event stuck = streams[0].record();
  for (std::size_t i = 1; i != streams.size(); ++i) {
    if (i <= waiting) streams[i].wait(stuck);
    copies.push_back(targets[i].async_to_host(streams[i], heap));
  }
  std::vector<thole::Event> done;
  for (std::size_t i = 1 + waiting; i != streams.size(); ++i) done.push_back(streams[i].record());
  int held = 0;
  for (int round = 0; round != very_often; ++round) {
    held = 0;
    for (const auto& event : done) held += event.ready() ? 0 : 1;
    if (held == 0) break;
  }
  if (device.backend() == thole::Backend::simulated)
    device.simulation().release(streams[0]);
  else
    std::atomic_ref(*opened).store(1, std::memory_order_release);
  for (const auto& stream : streams) stream.synchronize();
  return held;
}

void with(int connections, bool on_gpu) {
  const std::string number = std::to_string(connections);
  const auto device = on_gpu ? thole::Device::cuda(0, {.connections = connections}) : thole::Device::simulated();
  const int held = held_beside_a_stuck_stream(device);
  // Eight are too few for 40 streams, which shows that the option, or the test, does something.
  const bool share = on_gpu && connections == 8;
  must((held > 0) == share, number + " connections: " + std::to_string(held) + " of 20 streams are held");
  if (!on_gpu) return;
  const char* const now = std::getenv(variable);
  must(now != nullptr && number == now, "the variable says so, too");
  must(thole::Device::try_cuda(0, {.connections = connections}).has_value(), "the same number may be asked for again");
  const auto other = thole::Device::try_cuda(0, {.connections = connections - 1});
  must(!other && other.error().errc() == Errc::invalid_argument, "another number comes too late");
}

/// The context is made by a device that asks for no number, with what the environment says.
void late() {
  const auto device = thole::Device::cuda(0);
  const auto refused = thole::Device::try_cuda(0, {.connections = 32});
  must(!refused && refused.error().errc() == Errc::invalid_argument &&
           std::string_view(refused.error().what()).find("too late") != std::string_view::npos,
       refused ? "a number that comes too late is taken" : refused.error().what());
  must(std::string_view(std::getenv(variable)) == "8", "and the variable stays as it was");
  must(thole::Device::try_cuda(0, {.connections = 8}).has_value(), "the number that it has may be asked for");
}

}  // namespace

int main(int argc, char** argv) try {
  const char* const name = std::getenv("THOLE_DEVICE");
  const bool on_gpu = name != nullptr && std::string_view(name).starts_with("cuda");
  const std::string_view mode = argc > 1 ? argv[1] : "32";
  if (on_gpu && !support::gpu::has_code()) {
#ifdef THOLE_TEST_HAS_NVCC
    throw std::runtime_error("nvcc is there, but the program has none of its code");
#endif
    return 77;
  }
  // The option is what counts: the environment says something else.
  if (setenv(variable, mode == "8" ? "32" : "8", 1) != 0) return 1;
  if (mode != "late") {
    with(std::atoi(argv[1]), on_gpu);
  } else if (on_gpu) {
    late();
  } else {
    return 77;
  }
  return good ? 0 : 1;
} catch (const std::exception& error) {
  std::printf("WRONG: %s\n", error.what());
  return 1;
}
