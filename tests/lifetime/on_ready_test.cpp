// Being told: a function runs on a thread of thole's when an event is done, and coroutines wait for events. Order and
// losses are the simulated device's.

#include <coroutine>
#include <memory>
#include <semaphore>
#include <vector>

#include <thole/coroutine.hpp>

#include "../support/rig.hpp"

using namespace support;

namespace {

/// What functions have been told, in their order.
class Told {
 public:
  auto operator()(int which) {
    return [this, which](Result<void> result) {
      const std::scoped_lock lock(mutex_);
      which_.push_back(which);
      results_.push_back(std::move(result));
      thread_ = std::this_thread::get_id();
    };
  }
  std::size_t count() const {
    const std::scoped_lock lock(mutex_);
    return which_.size();
  }
  std::vector<int> which() const {
    const std::scoped_lock lock(mutex_);
    return which_;
  }
  Result<void> result(std::size_t index) const {
    const std::scoped_lock lock(mutex_);
    return results_.at(index);
  }
  std::thread::id thread() const {
    const std::scoped_lock lock(mutex_);
    return thread_;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<int> which_;
  std::vector<Result<void>> results_;
  std::thread::id thread_;
};

/// A coroutine that nobody waits for; what it throws is kept.
struct Task {
  struct promise_type {
    Task get_return_object() { return {}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() { std::terminate(); }
  };
};

}  // namespace

TEST_CASE("a function is told once its event is done, on another thread, and not before") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  Told told;
  Gate gate(rig, stream);
  stream.launch_host_function([] {});
  stream.record().on_ready(told(1));  // the event itself is gone
  const Event event = stream.record();
  event.on_ready(told(2));
  event.on_ready(told(3));
  CHECK(told.count() == 0);
  gate.open();
  until([&] { return told.count() == 3; });
  CHECK(told.which() == std::vector{1, 2, 3});
  CHECK(told.result(2).has_value());
  CHECK(told.thread() != std::this_thread::get_id());
  event.on_ready(told(4));  // done already
  until([&] { return told.count() == 4; });
}

TEST_CASE("events of different streams are told as each is done, whatever the order of asking") {
  const Rig rig;
  const Stream a(rig.device), b(rig.device);
  Told told;
  const Event first = a.record(), second = a.record();
  second.on_ready(told(2));
  first.on_ready(told(1));
  b.record().on_ready(told(3));
  rig.sim().step(b, 1);
  until([&] { return told.count() == 1; });
  rig.sim().step(a, 1);
  until([&] { return told.count() == 2; });
  rig.sim().step(a, 1);
  until([&] { return told.count() == 3; });
  CHECK(told.which() == std::vector{3, 1, 2});
}

TEST_CASE("in the function thole and the device may be called, and more events be waited for") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  auto buffer = std::make_unique<PinnedBuffer<int>>(rig.heap.make_buffer<int>(4, 7));
  Told told;
  int seen = 0;
  stream.record().on_ready([&, held = std::move(buffer)](Result<void>) {  // one that can only be moved
    auto memory = held->async_to_device(stream);
    auto back = std::make_shared<PinnedBuffer<int>>(memory.async_to_host(stream, rig.heap));
    stream.record().on_ready([&, back](Result<void>) {
      seen = back->borrow()[3];
      told(1)({});
    });
  });
  until([&] {
    rig.settle(stream);
    return told.count() == 1;
  });
  CHECK(seen == 7);
}

TEST_CASE("a lost device is told, too, and so is an event of a capture") {
  const Rig rig;
  const Stream stream(rig.device);
  Told told;
  (void)capture(stream, [&] {
    stream.record().on_ready(told(0));
    until([&] { return told.count() == 1; });
  });
  errc_text_of(told.result(0), Errc::capturing);
  stream.launch_host_function([] {});
  Event event = stream.record();
  event.on_ready(told(1));
  rig.sim().lose_device();
  until([&] { return told.count() == 2; });
  errc_text_of(told.result(1), Errc::device_lost);
  event.on_ready(told(2));
  until([&] { return told.count() == 3; });
  errc_text_of(told.result(2), Errc::device_lost);
  { const Event gone = std::move(event); }
  errc_text([&] { event.on_ready(told(3)); }, Errc::moved_from);
}

TEST_CASE("a coroutine goes on when what it waits for is done, at once where it is already") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  std::atomic<int> step{0};
  Gate gate(rig, stream);
  const auto serve = [&]() -> Task {
    auto buffer = rig.heap.make_buffer<int>(100, 5);
    auto memory = buffer.async_to_device(stream);
    step = 1;
    co_await stream.record();
    CHECK(buffer.try_borrow_mut().has_value());
    step = 2;
    co_await stream.record();
    step = 3;
  };
  serve();
  CHECK(step == 1);
  gate.open();
  until([&] {
    rig.finish(stream);
    return step == 3;
  });
  const auto here = std::this_thread::get_id();
  const auto done = [&]() -> Task {
    Event event = stream.record();
    rig.finish(stream);
    CHECK(event.ready());
    co_await std::move(event);
    CHECK(std::this_thread::get_id() == here);
    step = 4;
  };
  done();
  CHECK(step == 4);
}

TEST_CASE("a coroutine that waits on a device which is lost gets the error") {
  const Rig rig;
  const Stream stream(rig.device);
  std::atomic<bool> caught{false};
  stream.launch_host_function([] {});
  const auto serve = [&]() -> Task {
    try {
      co_await stream.record();
    } catch (const Error& error) {
      caught = error.errc() == Errc::device_lost;
    }
  };
  serve();
  rig.sim().lose_device();
  until([&] { return caught.load(); });
}

namespace {

/// A coroutine of which its handle decides.
struct OwnedTask {
  struct promise_type {
    OwnedTask get_return_object() { return {std::coroutine_handle<promise_type>::from_promise(*this)}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_always final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() { std::terminate(); }
  };
  std::coroutine_handle<promise_type> handle;
};

}  // namespace

TEST_CASE("a coroutine that is destroyed while it waits is not resumed, and what it held goes with it") {
  const Rig rig(under_test());
  const Stream stream(rig.device);
  auto resumed = std::make_shared<std::atomic<bool>>(false);
  Gate gate(rig, stream);
  stream.launch_host_function([] {});
  const auto serve = [](const Stream& on, std::shared_ptr<std::atomic<bool>> flag) -> OwnedTask {
    co_await on.record();
    *flag = true;
  };
  const OwnedTask task = serve(stream, resumed);
  CHECK(resumed.use_count() == 2);
  task.handle.destroy();
  CHECK(resumed.use_count() == 1);
  std::atomic<bool> later{false};
  stream.record().on_ready([&](const Result<void>&) { later = true; });
  gate.open();
  until([&] { return later.load(); });
  CHECK(!*resumed);
}
