// The main job: a file of any size through a fixed window of pinned buffers to the device, counted there, and back. It
// checks that what came back is what was read, and shows what thole did beside the naive way.

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thole/thole.hpp>
#include <utility>
#include <vector>

#include "stream_file/device_histogram.hpp"
#include "stream_file/files.hpp"
#include "stream_file/naive.hpp"
#include "stream_file/pipeline.hpp"
#include "stream_file/progress.hpp"
#include "stream_file/summary.hpp"

namespace {

using namespace stream_file;

constexpr const char* program = "06_stream_file";

struct Options {
  std::string path = "/proc/self/exe";  // a file that every machine has: this program
  std::size_t chunk = std::size_t{4} << 20;
  std::size_t window = 4;
  std::size_t arena = std::size_t{128} << 20;
  std::uint64_t compare = std::uint64_t{256} << 20;
  std::string output;
  bool no_naive = false;
  bool json = false;
};

void add_options(CLI::App& app, Options& options) {
  CLI::Validator size = CLI::AsSizeValue(false);  // K, KB and KiB are 1024 bytes, and so on
  size.description("");
  const auto add_size = [&](const char* name, auto& value, const char* what) {
    app.add_option(name, value, what)->transform(size)->type_name("SIZE")->take_last();
  };
  app.add_option("FILE", options.path, "The file to stream, - for standard input; without it, this program's own file");
  add_size("--chunk", options.chunk, "Bytes in each piece (default 4M)");
  app.add_option("--window", options.window, "Pieces on their way at a time, each in two buffers (default 4)")
      ->type_name("COUNT")
      ->take_last();
  add_size("--arena", options.arena, "Bytes of pinned memory, all that is ever used (default 128M)");
  app.add_option("--output", options.output, "Write what came back from the device to this file")->type_name("FILE");
  add_size("--compare", options.compare, "Bytes, from the start, that the naive ways get, too (default 256M)");
  app.add_flag("--no-naive", options.no_naive, "Do not compare with the naive way");
  app.add_flag("--json", options.json, "Print the summary as JSON");
  app.footer(
      "A SIZE may end in K, M, G or T (powers of 1024). The device is a GPU where one answers, else a simulated one;\n"
      "THOLE_DEVICE=cuda, cuda:N or simulated chooses. Exit status: 0 when everything was as it should be, else 1.");
}

void check_sizes(const Options& options) {
  constexpr std::uint64_t most = std::uint64_t{1} << 60;  // what CLI11 makes of a number below 0 is beyond it, too
  for (const auto value :
       {std::uint64_t{options.chunk}, std::uint64_t{options.window}, std::uint64_t{options.arena}, options.compare})
    if (value == 0 || value > most)
      throw std::runtime_error("--chunk, --window, --arena and --compare take numbers from 1 to 1E");
  // Each piece has two buffers; the histogram is small. As double: the product of the largest numbers fits.
  const double needed = 2 * static_cast<double>(options.window) * static_cast<double>(options.chunk) + 64 * 1024;
  if (needed > static_cast<double>(options.arena))
    throw std::runtime_error(fmt::format(
        "a window of {} times {}, there and back, needs {} of pinned memory, and the arena has {}: choose a "
        "smaller --window or --chunk, or a larger --arena",
        options.window, human_bytes(static_cast<double>(options.chunk)), human_bytes(needed),
        human_bytes(static_cast<double>(options.arena))));
}

/// Does the first bytes of the job again each way. They are read once before, so that no way has to wait for the disk.
void compare(const Options& options, InputFile& input, const thole::PinnedHeap& heap, const thole::StreamRef& stream,
             Summary& summary) {
  const std::uint64_t bytes = std::min(options.compare, summary.pass.bytes);
  const auto chunk = static_cast<std::size_t>(std::min<std::uint64_t>(options.chunk, bytes));
  if (options.no_naive) return void(summary.no_comparison = "--no-naive");
  if (bytes == 0) return void(summary.no_comparison = "the file is empty");
  if (!input.rewind()) return void(summary.no_comparison = "the file cannot be read twice");

  std::vector<Comparison> ways;
  {
    auto scratch = heap.make_buffer<unsigned char>(chunk);
    for (std::uint64_t done = 0, got = 1; done < bytes && got > 0; done += got) got = input.read(scratch.borrow_mut());
  }
  input.rewind();
  ways.push_back({"thole", stream_through(input, heap, stream, {chunk, options.window}, bytes, nullptr, nullptr)});
  for (const auto memory : {NaiveMemory::pageable, NaiveMemory::pinned}) {
    const auto naive = make_naive(memory, heap, stream, chunk);
    if (naive == nullptr) return void(summary.no_comparison = "this program was built without CUDA");
    input.rewind();
    ways.push_back({naive->name(), stream_naively(*naive, input, heap, stream, chunk, bytes)});
  }
  for (const auto& way : ways) {
    way.pass.verify();
    if (way.pass.bytes != bytes) return void(summary.no_comparison = "the file changed in the meantime");
  }
  summary.ways = std::move(ways);
}

Summary run(const Options& options) {
  check_sizes(options);
  InputFile input(options.path);
  const auto device = thole::Device::best();

  std::optional<OutputFile> output;
  if (!options.output.empty()) {
    if (input.is_same_file(options.output)) throw std::runtime_error("--output is the file that is read");
    output.emplace(options.output);
  }

  const auto before = std::chrono::steady_clock::now();
  const auto arena = thole::PinnedArena(device, {.bytes = options.arena});
  const std::chrono::duration<double> pinning = std::chrono::steady_clock::now() - before;
  const auto heap = thole::PinnedHeap(arena);
  const auto stream = thole::Stream(device);

  Summary summary;
  summary.path = input.path();
  summary.device = device.name();
  summary.backend = device.backend() == thole::Backend::cuda ? "cuda" : "simulated";
  summary.histogram = DeviceHistogram::method(device);
  summary.shape = {options.chunk, options.window};
  summary.pinned_bytes = arena.capacity();
  summary.pinning_seconds = pinning.count();
  {
    Progress progress(input.size());
    summary.pass = stream_through(input, heap, stream, summary.shape, std::numeric_limits<std::uint64_t>::max(),
                                  output ? &*output : nullptr, &progress);
  }
  if (output) output->close();
  summary.pass.verify();
  summary.heap = heap.stats();
  compare(options, input, thole::PinnedHeap(arena), stream, summary);
  return summary;
}

/// Says what went wrong, in one line.
int fail(const char* what) {
  fmt::print(stderr, "{}: {}\n", program, what);
  return 1;
}

}  // namespace

int main(int argc, char** argv) try {
  Options options;
  CLI::App app("Streams a file through pinned memory to the device and back, and checks every byte.", program);
  add_options(app, options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& wanted) {  // --help
    return app.exit(wanted);
  } catch (const CLI::ParseError& error) {
    return fail(error.what());
  }
  const Summary summary = run(options);
  const std::string text = options.json ? as_json(summary) : as_table(summary);
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0)
    throw std::system_error(errno, std::generic_category(), "cannot write standard output");
  return 0;
} catch (const std::exception& error) {
  return fail(error.what());
}
