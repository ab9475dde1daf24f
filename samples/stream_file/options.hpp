#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "plan.hpp"

namespace stream_file {

/// What the command line says.
struct Options {
  std::vector<std::string> files;
  Wishes wishes;
  std::uint64_t device_memory = 0;                 ///< bytes at most; 0: choose
  std::uint64_t compare = std::uint64_t{4} << 30;  ///< bytes
  std::string output, plot, trace;                 ///< "": none
  bool no_comparison = false;
  bool json = false;
};

/// Who asks, and whether it is the one that talks: of several ranks one does.
struct Speaker {
  const char* program;
  bool talks = true;
};

/// The options; or, when there is nothing more to do (`--help`, a mistake), none and the exit status. Says what is
/// wrong in one line on standard error.
std::optional<Options> parse(int argc, char** argv, Speaker speaker, int& status);

}  // namespace stream_file
