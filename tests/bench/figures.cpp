#include "figures.hpp"

#include <benchmark/benchmark.h>
#include <fmt/core.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

namespace bench {

namespace {

class Medians : public benchmark::ConsoleReporter {
 public:
  Medians() : ConsoleReporter(OO_Tabular) {}
  void ReportRuns(const std::vector<Run>& runs) override {
    ConsoleReporter::ReportRuns(runs);
    for (const Run& run : runs)
      if (run.aggregate_name == "median")
        medians[run.run_name.function_name + run.run_name.args] = run.GetAdjustedRealTime();
  }
  std::map<std::string, double> medians;
};

}  // namespace

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

Pair by_turns(const std::function<double()>& peer, const std::function<double()>& ours) {
  std::vector<double> peers, own;
  for (int i = 0; i < rounds; ++i) {
    peers.push_back(peer());
    own.push_back(ours());
  }
  return {median(peers), median(own)};
}

double per_operation(int threads, std::chrono::milliseconds window,
                     const std::function<std::function<void()>(int thread)>& worker) {
  constexpr int batch = 16;  // operations between two looks at the flag
  std::atomic<bool> stop{false};
  std::atomic<std::size_t> operations{0};
  std::mutex mutex;
  std::exception_ptr failure;
  std::barrier ready(threads + 1), done(threads);
  std::vector<std::thread> running;
  for (int i = 0; i < threads; ++i)
    running.emplace_back([&, i] {
      // A thread that fails still comes to the barriers: the others wait there for it.
      const auto guarded = [&](auto&& work) {
        try {
          work();
        } catch (...) {
          const std::lock_guard lock(mutex);
          failure = std::current_exception();
          stop.store(true, std::memory_order_relaxed);
        }
      };
      std::function<void()> operation;
      std::size_t count = 0;
      guarded([&] {
        operation = worker(i);
        for (int k = 0; k < 64; ++k) operation();
      });
      ready.arrive_and_wait();
      guarded([&] {
        while (!stop.load(std::memory_order_relaxed)) {
          for (int k = 0; k < batch; ++k) operation();
          count += batch;
        }
      });
      operations += count;
      done.arrive_and_wait();  // nobody tears anything down while others are still counted
    });
  ready.arrive_and_wait();
  const double began = nanoseconds();
  std::this_thread::sleep_for(window);
  stop.store(true, std::memory_order_relaxed);
  const double took = nanoseconds() - began;
  for (auto& thread : running) thread.join();
  if (failure != nullptr) std::rethrow_exception(failure);
  return took * threads / static_cast<double>(std::max<std::size_t>(operations.load(), 1));
}

Figures::Figures(int argc, char** argv, std::string name) : name_(std::move(name)) {
  std::vector<char*> rest;
  for (int i = 0; i < argc; ++i)
    if (i > 0 && i + 1 < argc && std::string_view(argv[i]) == "--json")
      json_ = argv[++i];
    else
      rest.push_back(argv[i]);
  int count = static_cast<int>(rest.size());
  rest.push_back(nullptr);
  benchmark::Initialize(&count, rest.data());
  if (benchmark::ReportUnrecognizedArguments(count, rest.data())) std::exit(2);
}

void Figures::add(Line line) {
  fmt::print("  {}: {:.4g} {} ({}) {}\n", line.what, line.figure, line.unit, line.peer, line.outcome);
  std::fflush(stdout);
  lines_.push_back(std::move(line));
}

void Figures::at_most(const std::string& what, double figure, double target, const std::string& unit,
                      const std::string& peer) {
  add({what, unit, fmt::format("<= {:.4g}", target), peer, figure <= target ? "ok" : "MISSED", figure});
}

void Figures::at_least(const std::string& what, double figure, double target, const std::string& unit,
                       const std::string& peer) {
  add({what, unit, fmt::format(">= {:.4g}", target), peer, figure >= target ? "ok" : "MISSED", figure});
}

void Figures::note(const std::string& what, double figure, const std::string& unit, const std::string& peer) {
  add({what, unit, "-", peer, "-", figure});
}

void Figures::skip(const std::string& what, const std::string& why) { add({what, "", "-", why, "skipped", 0}); }

void Figures::measure(const std::string& what, const std::function<void()>& section) {
  try {
    section();
  } catch (const std::exception& error) {
    add({what, "", "-", error.what(), "FAILED", 0});
  }
}

std::map<std::string, double> Figures::run_registered() {
  Medians reporter;
  benchmark::RunSpecifiedBenchmarks(&reporter);
  return std::move(reporter.medians);
}

int Figures::finish() const {
  fmt::print("\n");
  auto document = nlohmann::json::array();
  for (const Line& line : lines_) {
    const std::string figure =
        line.outcome == "skipped" || line.outcome == "FAILED" ? "-" : fmt::format("{:.4g} {}", line.figure, line.unit);
    fmt::print("claim: {} | {} | {} | {} | {}\n", line.what, figure, line.target, line.peer, line.outcome);
    document.push_back({{"bench", name_},
                        {"claim", line.what},
                        {"figure", line.figure},
                        {"unit", line.unit},
                        {"target", line.target},
                        {"peer", line.peer},
                        {"outcome", line.outcome}});
  }
  std::fflush(stdout);
  const bool failed =
      std::any_of(lines_.begin(), lines_.end(), [](const Line& line) { return line.outcome == "FAILED"; });
  if (json_.empty()) return failed ? 1 : 0;
  std::ofstream file(json_);
  file << document.dump(2) << '\n';
  file.close();
  if (file) return failed ? 1 : 0;
  std::fprintf(stderr, "cannot write %s\n", json_.c_str());
  return 1;
}

}  // namespace bench
