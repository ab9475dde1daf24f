#include "streams/host_functions.hpp"

#include <atomic>
#include <list>
#include <mutex>
#include <utility>

#include "base/host_function.hpp"
#include "base/immortal.hpp"

namespace thole::inline v0_1::detail {

struct HostFunction {
  std::function<void()> function;
  std::list<HostFunction>::iterator self;
  std::atomic<bool> in_stream{true};  // who sets it to false lets go for the stream
  std::atomic<unsigned> keepers{1};   // acquire, release: whoever is last sees what all have done
  explicit HostFunction(std::function<void()> f) noexcept : function(std::move(f)) {}
};

namespace {

/// All of them: so those that never run are not taken for leaks.
struct All {
  std::mutex mutex;
  std::list<HostFunction> functions;
};

void let_go(HostFunction* function) noexcept {
  if (function->keepers.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  std::list<HostFunction> gone;  // destroyed after the lock: what the function holds may do anything
  All& all = immortal<All>();
  const std::scoped_lock lock(all.mutex);
  gone.splice(gone.begin(), all.functions, function->self);
}

}  // namespace

HostFunction* keep_host_function(std::function<void()> function) {
  All& all = immortal<All>();
  const std::scoped_lock lock(all.mutex);
  HostFunction& made = all.functions.emplace_front(std::move(function));
  made.self = all.functions.begin();
  return &made;
}

void leave_stream(HostFunction* function) noexcept {
  if (function->in_stream.exchange(false, std::memory_order_acq_rel)) let_go(function);
}

void keep_in_graph(HostFunction* function) noexcept { function->keepers.fetch_add(1, std::memory_order_relaxed); }

void release_from_graph(void* function) { let_go(static_cast<HostFunction*>(function)); }

void run_host_function(void* function) {
  const InHostFunction running;
  static_cast<HostFunction*>(function)->function();
  leave_stream(static_cast<HostFunction*>(function));
}

}  // namespace thole::inline v0_1::detail
