#pragma once

#include <string>
#include <vector>

#include "checks.hpp"
#include "pipeline.hpp"

namespace stream_file {

/// One line of the comparison.
struct Comparison {
  std::string name;
  Pass pass;
};

/// All that the program has to tell when the job is done.
struct Summary {
  std::string path;
  std::string device;
  std::string backend;
  std::string histogram;  ///< how the device counted
  Shape shape;
  Pass pass;
  thole::HeapStats heap;
  std::size_t pinned_bytes = 0;
  double pinning_seconds = 0;
  /// The same bytes each way, this way first; empty when not asked for or not possible.
  std::vector<Comparison> ways;
  /// Why `ways` is empty, where it is.
  std::string no_comparison;
};

/// 4 MiB, 1.5 GiB and so on.
std::string human_bytes(double bytes);
std::string as_table(const Summary& summary);
std::string as_json(const Summary& summary);

}  // namespace stream_file
