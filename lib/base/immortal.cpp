#include "base/immortal.hpp"

#include <pthread.h>

#include "base/fork.hpp"
#include "base/spin_lock.hpp"

namespace thole::inline v0_1::detail {
namespace {

constinit SpinLock list_lock;
constinit ImmortalSlot* list = nullptr;  // under list_lock

// The lock is held across a fork, so that a child finds the list whole.
[[gnu::constructor]] void register_fork_handlers() {
  (void)pthread_atfork([] { list_lock.lock(); }, [] { list_lock.unlock(); },
                       [] {
                         list_lock.unlock();
                         forks.fetch_add(1, std::memory_order_relaxed);
                         forget_immortals();
                       });
}

}  // namespace

void* ImmortalSlot::publish(void* made) noexcept {
  {
    const SpinGuard guard(list_lock);
    if (!listed_) {
      listed_ = true;
      next_ = list;
      list = this;
    }
  }
  void* kept = nullptr;
  return object_.compare_exchange_strong(kept, made, std::memory_order_acq_rel, std::memory_order_acquire) ? made
                                                                                                           : kept;
}

void forget_immortals() noexcept {
  for (ImmortalSlot* slot = list; slot != nullptr; slot = slot->next_)
    slot->of_the_parent_ = slot->object_.exchange(nullptr, std::memory_order_relaxed);
}

}  // namespace thole::inline v0_1::detail
