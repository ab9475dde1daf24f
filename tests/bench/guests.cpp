// What an arena costs those who share its process and its machine: a fork, and copies while it is pinned.

#include <fmt/core.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <optional>
#include <string>

#include <thole/thole.hpp>

#include "figures.hpp"
#include "gpu.hpp"

namespace bench {

using namespace std::chrono_literals;

namespace {

/// What the machine has to spare, of which the benchmark may take half.
std::size_t half_of_the_free_memory() {
  std::ifstream file("/proc/meminfo");
  std::string word;
  std::size_t kib = 0;
  while (file >> word && word != "MemAvailable:") {
  }
  file >> kib;
  return kib * KiB / 2;
}

/// Milliseconds from the fork until the child has ended.
double fork_and_exit() {
  const double began = nanoseconds();
  const pid_t child = fork();
  if (child == 0) _exit(0);
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child) throw std::runtime_error("fork failed");
  return (nanoseconds() - began) / 1e6;
}

/// Microseconds: 99 % of the calls of cudaMemcpyAsync, as thole makes them, of 4 KiB took at most so long. Until
/// `done()`, and for a quarter of a second at least; between copies the stream is let run dry.
template <class F>
double copies_until(const thole::Device& device, const thole::PinnedHeap& heap, F done) {
  constexpr std::size_t bytes = 4 * KiB;
  const thole::Stream stream(device);
  thole::DeviceBuffer<std::byte> target(stream, bytes);
  const auto buffer = heap.make_buffer<std::byte>(bytes);
  std::vector<double> times;
  const double least = nanoseconds() + 250e6;
  do {
    const double began = nanoseconds();
    buffer.async_to_device(stream, target.span());
    times.push_back((nanoseconds() - began) / 1e3);
    buffer.wait();
  } while (nanoseconds() < least || !done());
  std::ranges::sort(times);
  return times[times.size() * 99 / 100];
}

}  // namespace

void forks(Figures& figures, const thole::Device& device) {
  const std::size_t bytes = std::min(4 * GiB, half_of_the_free_memory());
  const auto several = [] {
    std::vector<double> times;
    for (int i = 0; i != rounds; ++i) times.push_back(fork_and_exit());
    return median(times);
  };
  const double without = several();
  const thole::PinnedArena arena(device, {.bytes = bytes});
  const double with = several();
  figures.at_most(fmt::format("fork() and exit with an arena of {:.3g} GiB", static_cast<double>(bytes) / GiB),
                  with / without, 1.2, "x", fmt::format("{:.2f} ms; without it {:.2f} ms", with, without));
}

void pinned_in_background(Figures& figures, const thole::Device& device, const thole::PinnedHeap& heap) {
  // A simulated device touches memory, too, and shows nothing of what a driver's lock does.
  const bool simulated = device.backend() == thole::Backend::simulated;
  const std::size_t bytes = std::min(simulated ? GiB : 64 * GiB, half_of_the_free_memory());
  const std::string size = fmt::format("{:.3g} GiB", static_cast<double>(bytes) / GiB);
  thole::Device(device).trim_pinned();  // nothing is there already
  const double usual = copies_until(device, heap, [] { return true; });
  const double began = nanoseconds();
  std::optional<thole::PinnedArena> arena(std::in_place, device,
                                          thole::ArenaOptions{.bytes = bytes, .pin_in_background = true});
  (void)thole::PinnedHeap(*arena).make_buffer<std::byte>(MiB);
  const double first_ms = (nanoseconds() - began) / 1e6;
  double done_ms = 0;
  const auto done = [&] {
    if (arena->stats().to_pin != 0) return false;
    if (done_ms == 0) done_ms = (nanoseconds() - began) / 1e6;
    return true;
  };
  const double meanwhile = copies_until(device, heap, done);
  const std::string failed = arena->stats().pinning_failed;
  arena.reset();
  thole::Device(device).trim_pinned();  // the other benchmarks may want it
  if (!failed.empty()) throw std::runtime_error(failed);
  figures.at_most("the first buffer of an arena of " + size + " that is pinned in the background", first_ms, 50, "ms",
                  fmt::format("all of it after {:.0f} ms", done_ms));
  figures.at_most("a copy of 4 KiB (p99 of the call) while " + size + " are pinned in the background",
                  meanwhile / usual, 3, "x", fmt::format("{:.2f} us; else {:.2f} us", meanwhile, usual));
}

}  // namespace bench
