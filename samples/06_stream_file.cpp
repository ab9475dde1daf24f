// The main job: files of any size through a fixed window of pinned buffers into the device, or there and back, by
// several threads. It checks that the device has what was read, and shows what part of the link it reached, beside
// other ways.

#include <fmt/core.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thole/thole.hpp>
#include <thole/trace.hpp>
#include <thread>
#include <utility>
#include <vector>

#include "stream_file/compare.hpp"
#include "stream_file/interrupt.hpp"
#include "stream_file/job.hpp"
#include "stream_file/options.hpp"
#include "stream_file/plot.hpp"
#include "stream_file/progress.hpp"
#include "stream_file/summary.hpp"

namespace {

using namespace stream_file;

constexpr const char* program = "06_stream_file";

/// A file that is made when the job is done, but opened before, so that a name that cannot be is found in time.
std::optional<OutputFile>& open(std::optional<OutputFile>& file, const std::string& path, const char* option,
                                const std::vector<InputFile>& inputs) {
  if (path.empty()) return file;
  for (const InputFile& input : inputs)
    if (input.is(path)) throw std::runtime_error(fmt::format("{} is the file that is read", option));
  file.emplace(path);
  return file;
}

void write_whole(std::optional<OutputFile>& file, const std::string& text) {
  if (!file) return;
  file->write(0, {reinterpret_cast<const unsigned char*>(text.data()), text.size()});
  file->finish();
}

std::vector<InputFile> open_inputs(const Options& options, std::vector<std::string>& notes) {
  std::vector<InputFile> inputs;
  for (const auto& path : options.files) {
    inputs.emplace_back(path, options.wishes.direct);
    if (options.wishes.direct && !inputs.back().direct())
      notes.push_back(
          fmt::format("--direct: {} cannot be read past the page cache; read through it", inputs.back().path()));
  }
  return inputs;
}

/// The size of the largest; none if one has none.
std::optional<std::uint64_t> largest(const std::vector<InputFile>& inputs) {
  std::uint64_t most = 0;
  for (const auto& input : inputs) {
    if (!input.size()) return std::nullopt;
    most = std::max(most, *input.size());
  }
  return most;
}

/// The job's own pinned and device memory.
struct Memory {
  thole::PinnedHeap heap;
  DeviceSide device;
  Memory(const thole::Device& on, const Plan& plan, const Feed& feed, std::uint64_t limit)
      : heap(thole::PinnedArena(on, {.bytes = plan.pinned_bytes}),
             {.alignment = plan.direct ? direct_alignment : thole::HeapOptions{}.alignment}),
        device(heap, plan, feed, limit) {}
};

Summary run(const Options& options) {
  Summary summary;
  const auto inputs = open_inputs(options, summary.notes);
  std::optional<OutputFile> output, plot, trace;
  open(output, options.output, "--output", inputs);
  open(plot, options.plot, "--plot", inputs);
  open(trace, options.trace, "--trace", inputs);

  const auto device = thole::Device::best();
  const bool simulated = device.backend() == thole::Backend::simulated;
  summary.plan =
      make_plan(options.wishes, largest(inputs), std::max(1U, std::thread::hardware_concurrency()), simulated);
  Feed feed(inputs, summary.plan.chunk);
  if (feed.total()) summary.plan = for_pieces(summary.plan, feed.pieces());
  if (!DeviceSide::can_check(device) && summary.plan.mode == Mode::load && summary.plan.check != Check::none) {
    summary.plan.check = Check::none;
    summary.notes.emplace_back(
        "not checked: built without nvcc, a GPU has no kernel to check with; --round-trip checks on the CPU");
  }
  for (const auto& input : inputs) summary.files.push_back(input.path());
  summary.device = device.name();
  summary.backend = simulated ? "simulated" : "cuda";
  summary.checked_by = DeviceSide::method(device);

  const auto before = std::chrono::steady_clock::now();
  const std::uint64_t limit = DeviceSide::limit(options.device_memory, device);
  std::optional<Memory> memory(std::in_place, device, summary.plan, feed, limit);
  summary.preparing_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - before).count();
  summary.pinned_bytes = memory->heap.arena().capacity();
  summary.device_bytes = memory->device.bytes();
  summary.device_holds_all = memory->device.holds_all();

  Log log(summary.plan.threads);
  {
    Progress progress(feed.total());
    Job job{feed, memory->heap, memory->device, summary.plan, output ? &*output : nullptr, plot ? &log : nullptr};
    if (trace) thole::start_trace({.events_per_thread = std::size_t{1} << 19});
    summary.result = stream_file::run(job, [&] { progress.show(job.bytes); });
    thole::stop_trace();
  }
  stop_if_interrupted();
  if (output) output->finish();
  summary.heap = memory->heap.stats();
  for (const auto& input : inputs)
    if (input.has_grown())
      summary.notes.push_back(fmt::format("{} has grown since it was opened; the first {} bytes were the job",
                                          input.path(), *input.size()));

  const std::uint64_t bytes = std::min(options.compare, summary.result.bytes);
  if (options.no_comparison) {
    summary.no_comparison = "not asked for";
  } else if (bytes == 0) {
    summary.no_comparison = "there were no bytes";
  } else if (!feed.total()) {
    summary.no_comparison = "the input cannot be read twice";
  } else {
    compare_job(summary, inputs, bytes, memory->heap, memory->device);
    memory.reset();
    compare_peers(summary, inputs, bytes, device);
  }
  stop_if_interrupted();
  if (plot) write_whole(plot, as_svg(log, summary));
  if (trace) {
    std::ostringstream text;
    thole::write_trace(text);
    write_whole(trace, text.str());
  }
  return summary;
}

/// Says what went wrong, in one line.
int fail(const char* what, int status = 1) {
  fmt::print(stderr, "{}: {}\n", program, what);
  return status;
}

}  // namespace

int main(int argc, char** argv) try {
  int status = 0;
  const auto options = parse(argc, argv, {program}, status);
  if (!options) return status;
  catch_signals();
  const Summary summary = run(*options);
  const std::string text = options->json ? as_json(summary) : as_table(summary);
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0)
    throw std::system_error(errno, std::generic_category(), "cannot write standard output");
  return 0;
} catch (const Interrupted& interrupted) {
  return fail(interrupted.what(), interrupted.exit_status());
} catch (const std::exception& error) {
  return fail(error.what());
}
