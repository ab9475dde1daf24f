#pragma once

// What the benchmarks share: clocks, threads that run together, Google Benchmark's medians, and the lines they print.

#include <algorithm>
#include <atomic>
#include <barrier>
#include <chrono>
#include <cstddef>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <vector>

namespace bench {

inline constexpr std::size_t KiB = 1024;
inline constexpr std::size_t MiB = 1024 * KiB;
inline constexpr std::size_t GiB = 1024 * MiB;
inline constexpr int rounds = 5;

inline double nanoseconds() {
  return std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double median(std::vector<double> values);

/// The median of so many rounds of each, taken by turns so that both see the same machine.
struct Pair {
  double peer = 0, ours = 0;
};
Pair by_turns(const std::function<double()>& peer, const std::function<double()>& ours);

/// Nanoseconds that one operation takes on its thread, in `threads` threads that run together for the whole of
/// `window`. `worker(i)` sets thread i up and returns the operation; the clock starts when all are set up, since
/// threads that start one after the other do not get in each other's way. Throws what a worker throws.
double per_operation(int threads, std::chrono::milliseconds window,
                     const std::function<std::function<void()>(int thread)>& worker);

/// Claims, in the order in which they came.
class Figures {
 public:
  /// Reads --json FILE, and hands everything else to Google Benchmark.
  Figures(int argc, char** argv, std::string name);
  /// A figure that should be at most (or at least) the target.
  void at_most(const std::string& what, double figure, double target, const std::string& unit, const std::string& peer);
  void at_least(const std::string& what, double figure, double target, const std::string& unit,
                const std::string& peer);
  /// A figure without a target.
  void note(const std::string& what, double figure, const std::string& unit, const std::string& peer);
  void skip(const std::string& what, const std::string& why);
  /// Runs a part; what it throws becomes a line, and the other parts still run.
  void measure(const std::string& what, const std::function<void()>& section);
  /// Runs what was registered with Google Benchmark, and returns the median nanoseconds by name.
  std::map<std::string, double> run_registered();
  /// Prints the lines and writes the file. The exit status: 0 unless a part failed; a missed
  /// target is no failure.
  int finish() const;

 private:
  struct Line {
    std::string what, unit, target, peer, outcome;
    double figure = 0;
  };
  void add(Line line);
  std::string name_, json_;
  std::vector<Line> lines_;
};

}  // namespace bench
