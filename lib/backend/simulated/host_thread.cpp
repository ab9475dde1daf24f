#include "backend/simulated/host_thread.hpp"

#include "base/background_thread.hpp"
#include "base/host_function.hpp"

namespace thole::inline v0_1::detail::simulated {

namespace {

/// An exception that leaves the function ends the process on every device: also where a test's own thread steps it.
void run_function(void (*function)(void*), void* argument) noexcept {
  const InHostFunction runs;
  function(argument);
}

void host_thread() {
  Machine& all = machine();
  Lock lock(all.mutex);
  for (;;) {
    all.host_work.wait(lock, [&] { return !all.host_functions.empty(); });
    HostFunction& next = *all.host_functions.front();
    all.host_functions.pop_front();
    lock.unlock();
    run_function(next.function, next.argument);
    lock.lock();
    next.done = true;
    all.changed.notify_all();
  }
}

}  // namespace

void run_host_function(Lock& lock, const SimulatedDevice& device, const Operation& operation) {
  Machine& all = machine();
  if (!device.options.stepped && !all.has_host_thread) {
    try {
      background_thread(host_thread).detach();
      all.has_host_thread = true;
    } catch (...) {
      // No thread to be had: the stream's own takes its place.
    }
  }
  if (device.options.stepped || !all.has_host_thread) {
    lock.unlock();
    run_function(operation.function, operation.argument);
    lock.lock();
    return;
  }
  HostFunction mine{operation.function, operation.argument};
  all.host_functions.push_back(&mine);
  all.host_work.notify_one();
  all.changed.wait(lock, [&] { return mine.done; });
}

}  // namespace thole::inline v0_1::detail::simulated
