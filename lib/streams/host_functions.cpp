#include "streams/host_functions.hpp"

#include <list>
#include <mutex>
#include <utility>

#include "base/host_function.hpp"
#include "base/immortal.hpp"

namespace thole::inline v0_1::detail {
namespace {

struct Kept {
  std::function<void()> function;
  std::list<Kept>::iterator self;
};

struct OnTheirWay {
  std::mutex mutex;
  std::list<Kept> functions;
};

OnTheirWay& on_their_way() noexcept { return immortal<OnTheirWay>(); }

}  // namespace

void* keep_host_function(std::function<void()> function) {
  OnTheirWay& list = on_their_way();
  const std::scoped_lock lock(list.mutex);
  list.functions.push_front({std::move(function), {}});
  list.functions.front().self = list.functions.begin();
  return &list.functions.front();
}

void drop_host_function(void* kept) noexcept {
  std::list<Kept> gone;  // destroyed after the lock: what the function holds may do anything
  OnTheirWay& list = on_their_way();
  const std::scoped_lock lock(list.mutex);
  gone.splice(gone.begin(), list.functions, static_cast<Kept*>(kept)->self);
}

void run_host_function(void* kept) {
  const InHostFunction running;
  static_cast<Kept*>(kept)->function();
  drop_host_function(kept);
}

void run_function_of_graph(const std::function<void()>& function) {
  const InHostFunction running;
  function();
}

void delete_function_of_graph(void* function) noexcept { delete static_cast<std::function<void()>*>(function); }

}  // namespace thole::inline v0_1::detail
