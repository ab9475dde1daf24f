#include "options.hpp"

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <map>
#include <stdexcept>

namespace stream_file {
namespace {

void add_options(CLI::App& app, Options& options) {
  CLI::Validator size = CLI::AsSizeValue(false);  // K, KB and KiB are 1024 bytes, and so on
  size.description("");
  const auto add_size = [&](const char* name, auto& value, const char* what) {
    return app.add_option(name, value, what)->transform(size)->type_name("SIZE")->take_last();
  };
  const auto add_count = [&](const char* name, auto& value, const char* what) {
    return app.add_option(name, value, what)->type_name("COUNT")->take_last();
  };
  const auto add_file = [&](const char* name, auto& value, const char* what) {
    return app.add_option(name, value, what)->type_name("FILE");
  };
  Wishes& wishes = options.wishes;
  app.add_option(
      "FILE", options.files,
      "What to stream, several files one after the other; - is standard input; without any, this program's own file");
  auto* const round_trip = app.add_flag_callback(
      "--round-trip", [&wishes] { wishes.mode = Mode::round_trip; },
      "To the device and back, compared with what was read; else into the device only");
  const std::map<std::string, Check> checks{{"none", Check::none}, {"sum", Check::sum}, {"full", Check::full}};
  app.add_option("--check", wishes.check,
                 "none; sum: a sum of 64 bits, by the CPU and by the device; full: histograms and XXH3 hashes, too "
                 "(default: sum, and full with --round-trip)")
      ->transform(CLI::CheckedTransformer(checks).description(""))
      ->type_name("none|sum|full")
      ->take_last();
  add_count("--threads", wishes.threads,
            "Threads that read, each with a stream (default: three for four cores, 12 at most)");
  add_size("--chunk", wishes.chunk, "Bytes in each piece (default 4M, on a simulated device 1M; less for small files)");
  add_count("--window", wishes.window,
            "Pieces on their way at a time (default: three for each thread, if the arena has them)");
  add_size("--arena", wishes.arena, "Bytes of pinned memory at most (default 128M)");
  add_size("--device-memory", options.device_memory,
           "Bytes of device memory at most for a file; a larger one streams through a ring (default: what the GPU has; "
           "256M of a simulated one)");
  app.add_flag("--direct", wishes.direct, "Read past the page cache (O_DIRECT), where the file system can");
  add_file("--output", options.output, "Write what came back to this file; with --round-trip")->needs(round_trip);
  add_file("--plot", options.plot, "Draw speed and buffers over time as SVG");
  add_file("--trace", options.trace, "Write what each thread and stream did, for ui.perfetto.dev or chrome://tracing");
  add_size("--compare", options.compare, "Bytes, from the start, that the other ways get, too (default 4G)");
  app.add_flag("--no-comparison,--no-naive", options.no_comparison, "Do not compare with other ways");
  app.add_flag("--json", options.json, "Print the summary as JSON");
  app.footer(
      "A SIZE may end in K, M, G or T (powers of 1024). The device is a GPU where one answers, else a simulated one;\n"
      "THOLE_DEVICE=cuda, cuda:N or simulated chooses. Exit status: 0 when everything was as it should be, 130 after\n"
      "Ctrl-C, else 1.");
}

void check_options(const CLI::App& app, Options& options) {
  constexpr std::uint64_t most = std::uint64_t{1} << 60;  // what CLI11 makes of a number below 0 is beyond it, too
  const std::pair<const char*, std::uint64_t> numbers[] = {
      {"--threads", options.wishes.threads},      {"--window", options.wishes.window},
      {"--chunk", options.wishes.chunk},          {"--arena", options.wishes.arena},
      {"--device-memory", options.device_memory}, {"--compare", options.compare}};
  for (const auto& [name, value] : numbers)
    if (app.count(name) > 0 && (value == 0 || value > most))
      throw CLI::ValidationError(name, "takes numbers from 1 to 1E");
  if (options.files.empty()) options.files = {"/proc/self/exe"};  // a file that every machine has: this program
  if (std::count(options.files.begin(), options.files.end(), "-") > 1)
    throw CLI::ValidationError("FILE", "standard input can be read once");
  if (!options.output.empty() && options.files.size() > 1) throw CLI::ValidationError("--output", "takes one FILE");
  if (options.wishes.mode == Mode::round_trip && app.count("--check") == 0) options.wishes.check = Check::full;
}

}  // namespace

std::optional<Options> parse(int argc, char** argv, Speaker speaker, int& status) {
  Options options;
  CLI::App app("Streams files through pinned memory into the device, and checks every byte.", speaker.program);
  add_options(app, options);
  try {
    app.parse(argc, argv);
    check_options(app, options);
    return options;
  } catch (const CLI::Success& wanted) {  // --help
    if (speaker.talks) app.exit(wanted);
    status = 0;
  } catch (const CLI::ParseError& error) {
    if (speaker.talks) fmt::print(stderr, "{}: {}\n", speaker.program, error.what());
    status = 1;
  }
  return std::nullopt;
}

}  // namespace stream_file
