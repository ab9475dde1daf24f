#pragma once

// Events in coroutines: `co_await stream.record()` goes on when all that was enqueued so far is done.

#include <atomic>
#include <coroutine>
#include <memory>
#include <utility>

#include <thole/error.hpp>
#include <thole/event.hpp>

namespace thole::inline v0_1 {
namespace detail {

class EventAwaiter {
 public:
  explicit EventAwaiter(Event event) noexcept : event_(std::move(event)) {}
  /// A coroutine that is destroyed while it waits is not resumed.
  ~EventAwaiter() {
    if (wait_ != nullptr) wait_->over.store(true, std::memory_order_relaxed);
  }
  EventAwaiter(const EventAwaiter&) = delete;
  EventAwaiter& operator=(const EventAwaiter&) = delete;

  bool await_ready() const noexcept {
    const auto ready = event_.try_ready();
    return ready && *ready;
  }
  /// The coroutine may go on, on the other thread, before this returns.
  void await_suspend(std::coroutine_handle<> waiting) {
    wait_ = std::make_shared<Wait>();
    event_.on_ready([wait = wait_, waiting](Result<void> result) {
      if (wait->over.exchange(true, std::memory_order_relaxed)) return;
      wait->result = std::move(result);
      waiting.resume();
    });
  }
  void await_resume() {
    if (wait_ != nullptr) unwrap(std::move(wait_->result));
  }

 private:
  /// Shared with the callback, which may come when the coroutine is gone.
  struct Wait {
    std::atomic<bool> over{false};  // relaxed: who destroys a coroutine knows by itself that it is not being resumed
    Result<void> result;
  };
  Event event_;
  std::shared_ptr<Wait> wait_;
};

}  // namespace detail

/// The coroutine goes on at once where the event is done, else on a thread of thole's, which all callbacks share: it
/// may call thole and CUDA there, and should soon suspend again. Throws in the coroutine what `Event::synchronize`
/// throws. A coroutine may be destroyed while it waits, and is not resumed then: by a thread that knows that it is not
/// being resumed at this moment, since the event is not done, or since that thread is the one which resumes.
///
/// Thread safety: as `Event::on_ready`.
inline detail::EventAwaiter operator co_await(Event&& event) noexcept { return detail::EventAwaiter(std::move(event)); }

}  // namespace thole::inline v0_1
