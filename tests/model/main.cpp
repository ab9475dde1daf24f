// Random programs against a model: see program.hpp and threads.hpp.

#include <cstdint>
#include <cstdio>
#include <exception>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "program.hpp"
#include "threads.hpp"

int main(int argc, char** argv) {
  CLI::App app("Runs random programs over all of thole's calls on simulated devices and checks them against a model.");
  std::uint64_t seed = 1;
  std::uint64_t seeds = 1;
  std::uint64_t operations = 2000;
  std::size_t threads = 0;
  app.add_option("--seed", seed, "The first program's seed")->capture_default_str();
  app.add_option("--seeds", seeds, "How many programs, each with the next seed")->capture_default_str();
  app.add_option("--operations", operations, "Of each program")->capture_default_str();
  app.add_option("--threads", threads,
                 "0: one thread and stepped devices, so that a seed says all; else so many threads "
                 "on a device that runs by itself")
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);

  std::uint64_t done = 0;
  for (std::uint64_t each = seed; each != seed + seeds; ++each) {
    const auto repeat = [&] {
      return fmt::format("{} --seed {} --operations {}{}", argv[0], each, operations,
                         threads == 0 ? "" : fmt::format(" --threads {}", threads));
    };
    if (threads != 0) {
      try {
        done += model::run_threads(each, operations, threads);
      } catch (const std::exception& error) {
        fmt::print(stderr, "{}\nTo repeat: {}\n", error.what(), repeat());
        return 1;
      }
      continue;
    }
    model::Program program(each, operations);
    try {
      done += program.run();
    } catch (const std::exception& error) {
      fmt::print(stderr, "{}The last of these broke a rule: {}\nTo repeat: {}\n", program.trace(), error.what(),
                 repeat());
      std::fflush(nullptr);
      std::_Exit(1);  // what is half done is not to be taken down in good order
    }
  }
  fmt::print("{} operations, seeds {} to {}\n", done, seed, seed + seeds - 1);
}
