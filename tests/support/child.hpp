#pragma once

// Code that runs in a forked child.

#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

namespace support {

/// Runs `f` in a child made by fork(), which then exits with its result as any program does: static destructors run.
/// Gives that result; -1 where the child was killed, as one that hangs is in the end.
template <class F>
int in_child(F f) {
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    std::exit(f());
  }
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child) return -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace support
