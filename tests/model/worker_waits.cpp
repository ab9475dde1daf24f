// Waits with an end, and functions that run when an event is ready, while other threads do as they like. What a held
// stream was given is surely not done, so that what a wait must say is known without a clock.

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <thole/thole.hpp>

#include "worker.hpp"

namespace model {

using namespace thole;

std::chrono::nanoseconds Worker::short_time() {
  using std::chrono::nanoseconds;
  constexpr nanoseconds times[] = {nanoseconds(0), nanoseconds(0), nanoseconds(-1), nanoseconds(1'000),
                                   nanoseconds(20'000)};
  return times[below(5)];
}

/// Nothing that waits for a stream which stands still may say that it is done, and nothing else may be in the way.
void Worker::wait_in_vain() {
  const PinnedHeap& from = heap();
  Parcel parcel = make(1 + below(600), from);
  Buffer& buffer = *parcel.buffer;
  const Word* const data = buffer.unsynchronized_data();
  const bool writes = below(2) == 0;
  const Stream& there = own_stream();
  const auto told = std::make_shared<std::atomic<int>>(0);
  std::optional<StandingStill> held(std::in_place, shared_, there);
  if (writes) {
    buffer.use_on(there, Access::device_writes, [&](Word* at, NativeStream native) {
      parcel.pattern = ++patterns_;
      write_later(native, at, buffer.size(), parcel.pattern);
    });
  } else {
    buffer.use_on(there, Access::device_reads,
                  [&](const Word*, NativeStream native) { look_later(native, data, buffer.size(), parcel.pattern); });
  }
  const Event event = there.record();
  if (below(4) == 0) {
    event.on_ready([told](const Result<void>&) { ++*told; });
    notices_.push_back(told);
  }
  const auto in_vain = [](const auto& result, Errc code = Errc::timed_out) {
    if (result) broken("a wait for a stream that stands still succeeded");
    if (result.error().errc() != Errc::timed_out && result.error().errc() != code) throw result.error();
  };
  for (std::size_t left = 1 + below(4); left != 0; --left) {
    switch (below(7)) {
      case 0:
        in_vain(buffer.wait_for(short_time()));
        break;
      case 1:
        in_vain(buffer.try_borrow_mut_for(short_time()));
        break;
      case 2: {
        const auto borrow = buffer.try_borrow_for(short_time());
        if (writes)
          in_vain(borrow);
        else if (!borrow || !holds(borrow->data(), borrow->size(), parcel.pattern))
          broken("a read is in the way of a borrow, or the payload is wrong");
        break;
      }
      case 3:
        in_vain(event.wait_for(short_time()));
        break;
      case 4:
        in_vain(there.synchronize_for(short_time()));
        break;
      case 5:
        in_vain(from.drain_for(short_time()), Errc::capturing);  // another thread may capture just then
        break;
      default:
        if (event.ready() || !buffer.busy()) broken("what stands still is said to be done");
    }
  }
  if (*told != 0) broken("a function of on_ready ran while the stream stood still");
  held.reset();
  if (below(4) == 0) return;  // dropped in flight
  unwrap(buffer.wait_for(forever));
  if (buffer.busy() || !buffer.try_borrow_mut()) broken("what was waited for is not done");
  keep(std::move(parcel));
}

/// What is done when a wait with an end succeeds, is done; and some time it does.
void Worker::wait_for_a_time() {
  Parcel parcel = make();
  const StreamRef there = stream();
  const auto ran = std::make_shared<std::atomic<bool>>(false);
  parcel.buffer->use_on(there, Access::device_writes, [&](Word* at, NativeStream native) {
    parcel.pattern = ++patterns_;
    write_later(native, at, parcel.buffer->size(), parcel.pattern);
    there.launch_host_function([ran] { *ran = true; });
  });
  const Event event = there.record();
  const std::size_t way = below(5);
  const auto wait = [&]() -> Result<void> {
    switch (way) {
      case 0:
        return parcel.buffer->wait_for(short_time());
      case 1:
        return event.wait_for(short_time());
      case 2:
        return there.synchronize_for(short_time());
      case 3:
        return parcel.buffer->try_borrow_for(short_time()).map([](const auto&) {});
      default:
        return parcel.buffer->try_borrow_mut_for(short_time()).map([](const auto&) {});
    }
  };
  for (Result<void> waited = wait(); !waited; waited = wait()) {
    if (waited.error().errc() != Errc::timed_out) throw waited.error();
    std::this_thread::yield();
  }
  if (!*ran) broken("a wait succeeded too early");
  if (const auto drained = heap().drain_for(short_time());
      !drained && drained.error().errc() != Errc::timed_out && drained.error().errc() != Errc::capturing)
    throw drained.error();
  keep(std::move(parcel));
}

/// On the library's own thread: what was enqueued before the event has run, and what it used is free.
void Worker::ask_for_notice() {
  auto parcel = std::make_shared<Parcel>(make());
  const StreamRef there = stream();
  const Word* const data = parcel->buffer->unsynchronized_data();
  parcel->buffer->use_on(there, Access::device_reads, [&](const Word*, NativeStream native) {
    look_later(native, data, parcel->buffer->size(), parcel->pattern);
  });
  const auto ran = std::make_shared<std::atomic<bool>>(false);
  there.launch_host_function([ran] { *ran = true; });
  std::optional<Event> event = there.record();
  const auto told = std::make_shared<std::atomic<int>>(0);
  std::optional<PinnedHeap> collects;
  if (below(2) == 0) collects = heap();
  event->on_ready([&shared = shared_, parcel, ran, told, collects](const Result<void>& result) mutable {
    if (!result) shared.fail(std::string("a function of on_ready was told of an error: ") + result.error().what());
    if (!*ran) shared.fail("a function of on_ready ran too early");
    if (const auto borrow = parcel->buffer->try_borrow_mut();
        !borrow || !holds(borrow->data(), borrow->size(), parcel->pattern))
      shared.fail("when an event is ready a buffer is not free, or shows a wrong payload");
    if (collects) (void)collects->collect();
    parcel.reset();
    ++*told;
  });
  notices_.push_back(told);
  parcel.reset();
  if (below(2) == 0) event.reset();  // it need not live
  std::erase_if(notices_, [](const auto& each) {
    if (*each > 1) broken("a function of on_ready ran twice");
    return *each == 1;
  });
}

/// Each is told once. That thread may wait for the processor for long.
void Worker::await_notices() {
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  for (const auto& told : notices_) {
    while (*told == 0 && std::chrono::steady_clock::now() < until) std::this_thread::yield();
    if (*told != 1) shared_.fail("a function of on_ready did not run once when all was done");
  }
}

}  // namespace model
