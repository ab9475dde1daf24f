#pragma once

#include <exception>

namespace stream_file {

/// Somebody wants the program to end (Ctrl-C, SIGTERM).
class Interrupted : public std::exception {
 public:
  explicit Interrupted(int signal) noexcept : signal_(signal) {}
  const char* what() const noexcept override;
  /// What a shell expects: 130 for Ctrl-C.
  int exit_status() const noexcept { return 128 + signal_; }

 private:
  int signal_;
};

/// From now on SIGINT and SIGTERM are noted, each once: a second one ends the program at once, as usual. A mapping
/// whose file is cut short (SIGBUS) ends it with a line that says so.
void catch_signals();
/// Throws `Interrupted` if one came.
void stop_if_interrupted();

}  // namespace stream_file
