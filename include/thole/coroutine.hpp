#pragma once

// Events in coroutines: `co_await stream.record()` goes on when all that was enqueued so far is done.

#include <coroutine>
#include <utility>

#include <thole/error.hpp>
#include <thole/event.hpp>

namespace thole {
namespace detail {

class EventAwaiter {
 public:
  explicit EventAwaiter(Event event) noexcept : event_(std::move(event)) {}
  bool await_ready() const noexcept {
    const auto ready = event_.try_ready();
    return ready && *ready;
  }
  /// The coroutine may go on, on the other thread, before this returns.
  void await_suspend(std::coroutine_handle<> waiting) {
    event_.on_ready([this, waiting](Result<void> result) {
      result_ = std::move(result);
      waiting.resume();
    });
  }
  void await_resume() { unwrap(std::move(result_)); }

 private:
  Event event_;
  Result<void> result_;
};

}  // namespace detail

/// The coroutine goes on at once where the event is done, else on a thread of thole's, which all callbacks share: it
/// may call thole and CUDA there, and should soon suspend again. Throws in the coroutine what `Event::synchronize`
/// throws.
///
/// Thread safety: as `Event::on_ready`.
inline detail::EventAwaiter operator co_await(Event&& event) noexcept { return detail::EventAwaiter(std::move(event)); }

}  // namespace thole
