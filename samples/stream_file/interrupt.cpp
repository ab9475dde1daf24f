#include "interrupt.hpp"

#include <unistd.h>

#include <atomic>
#include <csignal>

namespace stream_file {
namespace {

std::atomic<int> caught{0};
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler may touch nothing else");

void note(int signal) { caught.store(signal, std::memory_order_relaxed); }

void cut_short(int) {
  constexpr char text[] = "06_stream_file: a file was cut short while it was mapped\n";
  (void)!::write(STDERR_FILENO, text, sizeof text - 1);
  ::_exit(1);
}

void on(int signal, void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  ::sigaction(signal, &action, nullptr);
}

}  // namespace

const char* Interrupted::what() const noexcept {
  return signal_ == SIGINT ? "interrupted; nothing half-written is left" : "terminated; nothing half-written is left";
}

void catch_signals() {
  on(SIGINT, note);
  on(SIGTERM, note);
  on(SIGBUS, cut_short);
}

void stop_if_interrupted() {
  if (const int signal = caught.load(std::memory_order_relaxed); signal != 0) throw Interrupted(signal);
}

}  // namespace stream_file
