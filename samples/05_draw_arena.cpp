// Draw an arena: a picture of a running one, block by block, coloured by state, as SVG.

#include <fmt/core.h>
#include <chrono>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <gsl/util>
#include <iostream>
#include <latch>
#include <optional>
#include <range/v3/view/iota.hpp>
#include <string>
#include <thole/thole.hpp>
#include <tuple>
#include <vector>

namespace {

// Makes buffers of many sizes and leaves them in every state that a block can be in: held, dropped with its copy still
// to come, recycled and kept close, free.
void run_and_draw(std::ostream& out) {
  auto device = thole::Device::best();
  auto arena = thole::PinnedArena(device, {.bytes = 64 << 20});
  auto heap = thole::PinnedHeap(arena);
  auto quick = thole::Stream(device), slow = thole::Stream(device);
  auto gate = std::latch(1);
  slow.launch_host_function([&gate] { gate.wait(); });  // nothing behind this runs while we draw
  const auto open_gate = gsl::finally([&] {
    gate.count_down();
    std::ignore = slow.synchronize_for(std::chrono::hours(1));
  });

  std::vector<thole::PinnedBuffer<unsigned char>> held;
  std::vector<thole::DeviceBuffer<unsigned char>> on_device;
  for (const int step : ranges::views::iota(0, 128)) {
    const std::size_t kib = std::size_t{16} << (step % 8);  // 16 KiB to 2 MiB
    auto buffer = heap.make_buffer<unsigned char>(kib << 10, static_cast<unsigned char>(step));
    if (step % 3 == 0) on_device.push_back(buffer.async_to_device(slow));
    if (step % 3 == 1) on_device.push_back(buffer.async_to_device(quick));
    if (step % 5 == 0) held.push_back(std::move(buffer));
  }
  quick.synchronize();
  heap.collect();

  arena.draw_svg(out);
  const auto stats = arena.stats();
  fmt::print(stderr, "{} KiB pinned: {} KiB in use, {} KiB in flight, {} KiB cached\n", stats.capacity >> 10,
             stats.in_use >> 10, stats.in_flight >> 10, stats.cached >> 10);
}

}  // namespace

int main(int argc, char** argv) try {
  CLI::App app("Draws a running arena as SVG.", "05_draw_arena");
  std::string path;
  app.add_option("FILE", path, "The file to write; without it, the picture goes to standard output");
  CLI11_PARSE(app, argc, argv);

  std::optional<std::ofstream> file;
  if (!path.empty()) file.emplace(path);
  std::ostream& out = file ? *file : std::cout;
  if (out) run_and_draw(out);
  out.flush();
  if (!out) {
    fmt::print(stderr, "05_draw_arena: cannot write {}: {}\n", path.empty() ? "standard output" : path,
               std::strerror(errno));
    return 1;
  }
} catch (const thole::Error& error) {
  fmt::print(stderr, "05_draw_arena: {}\n", error.what());
  return 1;
}
