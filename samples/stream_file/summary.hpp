#pragma once

#include <string>
#include <vector>

#include "job.hpp"

namespace stream_file {

/// One line of the comparison.
struct Comparison {
  std::string key, name;
  std::uint64_t bytes = 0;
  double seconds = 0;
  double gigabytes_per_second() const { return seconds > 0 ? static_cast<double>(bytes) / seconds / 1e9 : 0; }
};

/// All that the program has to tell when the job is done.
struct Summary {
  std::vector<std::string> files;
  std::string device;
  std::string backend;
  std::string checked_by;  ///< how the device checked
  Plan plan;
  Result result;
  thole::HeapStats heap;
  std::size_t pinned_bytes = 0;
  std::uint64_t device_bytes = 0;
  bool device_holds_all = false;
  double preparing_seconds = 0;
  std::vector<std::string> notes;
  /// The same bytes each way, this way first; empty when not asked for or not possible.
  std::vector<Comparison> ways;
  /// Why `ways` is empty, where it is.
  std::string no_comparison;

  /// GB/s of the bare link, 0 where it was not measured.
  double link() const;
};

std::string as_table(const Summary& summary);
std::string as_json(const Summary& summary);

}  // namespace stream_file
