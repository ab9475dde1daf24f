#pragma once

// Threads of the library's own. They never handle the program's signals.

#include <csignal>
#include <thread>
#include <utility>

namespace thole::inline v0_1::detail {

/// A thread with every signal blocked. Throws std::system_error when there is none to be had.
template <class Function>
std::thread background_thread(Function&& function) {
  struct Blocked {
    sigset_t before{};
    Blocked() {
      sigset_t all;
      sigfillset(&all);
      pthread_sigmask(SIG_SETMASK, &all, &before);  // the new thread inherits it
    }
    ~Blocked() { pthread_sigmask(SIG_SETMASK, &before, nullptr); }
  };
  const Blocked blocked;
  return std::thread(std::forward<Function>(function));
}

}  // namespace thole::inline v0_1::detail
