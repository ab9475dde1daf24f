#pragma once

// Code that runs in a forked child.

#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "sanitized.hpp"

namespace support {

/// What only the stacks of the parent's other threads held looks lost in a child, which has none of them.
inline bool is_child = false;

}  // namespace support

#if THOLE_TEST_SANITIZED
/// LeakSanitizer asks it before it looks.
extern "C" __attribute__((used, visibility("default"))) inline int __lsan_is_turned_off() {
  return support::is_child ? 1 : 0;
}
#endif

namespace support {

/// Runs `f` in a child made by fork(), which then exits with its result as any program does: static destructors run.
/// Gives that result; -1 where the child was killed, as one that hangs is in the end.
template <class F>
int in_child(F f) {
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    is_child = true;
    alarm(60);
    std::exit(f());
  }
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child) return -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace support
