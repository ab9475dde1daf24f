// What other threads do with the same objects at the same time, and what a forked child does with them.

#include <algorithm>
#include <array>
#include <functional>
#include <latch>
#include <thread>
#include <utility>

#include <fmt/format.h>

#include "../support/child.hpp"
#include "../support/sanitized.hpp"
#include "program.hpp"

namespace model {

/// Const calls on one buffer from two threads: both borrow it and copy it, each in a stream of its own or in the same.
void Program::share() {
  HostBuffer* const target = pick_buffer();
  if (target == nullptr || target->memory->count == 0 || device_memory_.size() > 22 || fault_) return;
  Memory& memory = *target->memory;
  const std::array<Lane*, 2> lanes = {pick_lane(false), pick_lane(false)};
  for (Lane* const lane : lanes)
    if (lane == nullptr || !order(*lane, memory, false)) return;
  if (busy_for_host(memory, false)) return;
  say(fmt::format("two threads borrow {} words and copy them in streams {} and {}", memory.count, lanes[0]->id,
                  lanes[1]->id));
  struct Outcome {
    std::optional<thole::Error> borrow_error, copy_error;
    std::optional<thole::Borrow<Word>> borrow;
    std::optional<thole::DeviceBuffer<Word>> made;
  };
  std::array<Outcome, 2> outcomes;
  const bool copy_first = chance(2);
  std::latch both(2);
  const auto run = [&](std::size_t i) {
    const Buffer& buffer = target->buffer;
    Outcome& outcome = outcomes[i];
    const auto copy = [&] {
      auto made = buffer.try_async_to_device(*lanes[i]->ref);
      if (made)
        outcome.made = std::move(*made);
      else
        outcome.copy_error = made.error();
    };
    both.arrive_and_wait();
    if (copy_first) copy();
    for (int n = 0; n != 4; ++n) {
      auto borrow = buffer.try_borrow();
      outcome.borrow.reset();
      if (borrow)
        outcome.borrow = std::move(*borrow);
      else
        outcome.borrow_error = borrow.error();
      if (borrow) outcome.borrow_error.reset();
    }
    if (!copy_first) copy();
  };
  {
    const std::jthread other([&] { run(1); });
    run(0);
  }
  for (std::size_t i = 0; i != 2; ++i) {
    Outcome& outcome = outcomes[i];
    judge(outcome.copy_error, !memory.writer, {memory.writer ? Errc::borrowed : Errc::out_of_memory});
    if (outcome.made) {
      auto made = device_memory(*outcome.made, *lanes[i]);
      device_memory_.push_back({std::move(*outcome.made), made});
      enqueued(*lanes[i], {target->memory, made, 0, 0, memory.count, true});
    }
    judge(outcome.borrow_error,
          outcome.borrow_error || holds([&] { return !memory.writer && !ledger_.conflict(memory, false, true); }),
          {memory.writer ? Errc::borrowed : Errc::in_flight});
    if (!outcome.borrow) continue;
    ++memory.readers;
    Kept kept;
    kept.read = std::move(outcome.borrow);
    kept.memory = target->memory;
    kept.content = std::make_shared<const Content>(memory.content);
    read_kept(kept);
    kept_.push_back(std::move(kept));
  }
  while (kept_.size() > 8) end_borrow();
}

/// The last buffer of a heap that has ended goes on another thread, while this one opens the next heap.
void Program::heap_ends_beside() {
  Arena* const arena = pick(arenas_);
  if (arena == nullptr || fault_) return;
  say(fmt::format("a heap of arena {} ends on another thread", arena->number));
  std::optional<Heap> ending(std::in_place, Heap{arena->number, arena->options.bytes, arena->options.bytes, 64,
                                                 thole::PinnedHeap(arena->arena)});
  auto last = ending->heap.try_make_buffer<Word>(1 + below(256));
  judge(last ? std::nullopt : std::optional(last.error()), true, {Errc::out_of_memory});
  if (!last) return;
  const MemoryPtr memory = adopt(*ending, *last, last->size(), false);
  memory->content = ledger_.fresh(memory->count);
  memory->known = true;
  std::ranges::copy(memory->content, last->borrow_mut().begin());
  // In flight it comes back by a thread of the library's own.
  if (Lane* const lane = pick_lane(false); lane != nullptr && traits_.orphans && device_memory_.size() < 24) {
    HostBuffer in_flight{std::move(*last), memory};
    to_device_new(in_flight, *lane);
    last = std::move(in_flight.buffer);
  }
  ending.reset();
  memory->handle = false;
  std::string wrong;
  std::optional<thole::PinnedHeap> next;
  std::optional<thole::Error> refused;
  {
    std::latch both(2);
    const std::jthread other([&, buffer = std::move(*last)]() mutable {
      both.arrive_and_wait();
      wrong = difference(buffer.unsynchronized_data(), memory->content.data(), memory->count);
      const Buffer gone = std::move(buffer);
    });
    both.arrive_and_wait();
    next.emplace(arena->arena);
    for (int n = 0; n != 2; ++n) {
      auto made = next->try_make_buffer<Word>(64);
      if (!made) refused = made.error();
    }
  }
  if (!wrong.empty()) broken("a buffer of a heap that has ended shows a wrong payload: " + wrong);
  judge(refused, true, {Errc::out_of_memory});
  ledger_.look();
  ledger_.forget();
}

/// A child may drop anything and exit, every other call is refused, and what it makes anew works.
void Program::fork_child() {
  if (THOLE_TEST_SANITIZED || lost_) return;
  say("fork");
  if (support::in_child([&] { return in_child(); }) != 0) broken("a forked child did not end well");
}

int Program::in_child() try {
  const auto refused = [](const char* what, const std::function<void()>& call) {
    try {
      call();
    } catch (const thole::Error& error) {
      if (error.errc() == Errc::device_lost) return;
      broken(fmt::format("in a child, {}: {}", what, error.what()));
    }
    broken(fmt::format("in a child, {}: no error", what));
  };
  if (Lane* const lane = pick(lanes_)) {
    refused("synchronize", [&] { lane->ref->synchronize(); });
    refused("native", [&] { (void)lane->ref->native(); });
    if (HostBuffer* const buffer = pick(buffers_); buffer != nullptr && buffer->memory->count != 0) {
      refused("async_to_device", [&] { (void)buffer->buffer.async_to_device(*lane->ref); });
      refused("borrow", [&] { (void)buffer->buffer.borrow(); });
      refused("use_on", [&] {
        buffer->buffer.use_on(*lane->ref, thole::Access::device_writes, [](Word*, thole::NativeStream) {});
      });
    }
  }
  if (Heap* const heap = pick(heaps_)) {
    refused("make_buffer", [&] { (void)heap->heap.make_buffer<Word>(1 + below(20000)); });
    refused("drain", [&] { heap->heap.drain(); });
  }
  if (KeptEvent* const event = pick(events_)) {
    refused("ready", [&] { (void)event->event.ready(); });
    refused("elapsed_since", [&] { (void)event->event.elapsed_since(events_.front().event); });
  }
  for (const Raw& raw : raws_)
    if (raw.heap.find(raw.memory->data) || raw.heap.deallocate(raw.memory->data))
      broken("a child knows raw memory of its parent's");
  const bool anew_first = chance(2);
  const auto make_anew = [] {
    const auto device = thole::Device::simulated();
    const thole::PinnedHeap heap(thole::PinnedArena(device, {.bytes = std::size_t{256} << 10}));
    const thole::Stream stream(device);
    const auto there = heap.make_buffer<Word>(100, 7).async_to_device(stream);
    if (there.async_to_host(stream, heap).borrow()[99] != 7) broken("in a child, a wrong payload");
  };
  if (anew_first) make_anew();
  drop_everything();
  if (!anew_first) make_anew();
  return 0;
} catch (const std::exception& error) {
  fmt::print(stderr, "{}\n", error.what());
  return 1;
}

}  // namespace model
