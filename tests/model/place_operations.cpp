// Arenas, heaps, streams and events come and go, and the calls that are about all of them.

#include <algorithm>
#include <limits>
#include <sstream>
#include <utility>

#include <fmt/format.h>

#include "api/handle_access.hpp"
#include "program.hpp"

namespace model {
namespace {

thole::detail::DeviceBackend& backend(const thole::Device& device) {
  return *thole::detail::HandleAccess::core(device)->backend;
}

}  // namespace

thole::ArenaOptions Program::some_arena() {
  thole::ArenaOptions options;
  options.bytes = (std::size_t{64} << 10) * (1 + below(traits_.large ? 32 : 6));
  if (chance(3)) options.max_bytes = options.bytes + (std::size_t{256} << 10) * (1 + below(4));
  if (chance(4)) options.pin_method = thole::PinMethod::host_alloc;
  return options;
}

void Program::make_arena() {
  if (arenas_.size() >= 3) return drop_arena();
  const auto options = some_arena();
  say(fmt::format("PinnedArena({}, up to {})", options.bytes, options.max_bytes));
  std::optional<thole::PinnedArena> made;
  if (call(true, {}, [&] { made.emplace(devices_[0], options); })) return;
  if (made->capacity() < options.bytes) broken("an arena is smaller than it was asked for");
  (void)call(false, {Errc::invalid_argument}, [&] { (void)thole::PinnedArena(devices_[0], {.bytes = 0}); });
  arenas_.push_back({++arena_numbers_, std::move(*made), options});
  if (heaps_.empty() || chance(2)) make_heap();
}

void Program::make_heap() {
  Arena* const arena = pick(arenas_);
  if (arena == nullptr) return make_arena();
  if (heaps_.size() >= 6) return drop_heap();
  say(fmt::format("PinnedHeap in arena {}", arena->number));
  constexpr std::size_t alignments[] = {64, 64, 64, 8, 512, 4096};
  const std::size_t alignment = alignments[below(6)];
  const std::size_t most = std::max(arena->arena.capacity(), arena->arena.stats().max_capacity);
  heaps_.push_back(
      {arena->number, arena->options.bytes, most, alignment,
       thole::PinnedHeap(arena->arena, {.alignment = alignment, .background_reclaim = traits_.background && chance(2)}),
       ++heap_numbers_});
}

void Program::drop_arena() {
  if (arenas_.empty() || arenas_.size() + heaps_.size() < 3) return;
  std::swap(arenas_[below(arenas_.size())], arenas_.back());
  say(fmt::format("drop arena {}", arenas_.back().number));
  arenas_.pop_back();
  ledger_.look();
}

bool Program::arena_idle(std::uint64_t number) const {
  return std::ranges::none_of(
      ledger_.pinned(), [&](const MemoryPtr& memory) { return memory->arena == number && ledger_.needed(*memory); });
}

void Program::drop_heap() {
  if (heaps_.size() < 2) return;
  std::swap(heaps_[below(heaps_.size())], heaps_.back());
  // From a heap that is gone, blocks come back by a thread of the library's own, whose calls no seed decides.
  if (!traits_.orphans && !arena_idle(heaps_.back().arena)) return;
  say(fmt::format("drop a heap in arena {}", heaps_.back().arena));
  heaps_.pop_back();
  ledger_.look();
}

// ---- Streams

void Program::make_lane() {
  if (lanes_.size() >= 6) return drop_lane();
  Lane lane;
  lane.device = traits_.two_devices && chance(3) ? 1 : 0;
  const thole::Device& on = devices_[lane.device];
  std::uint64_t id = 0;
  // What is beyond the device's range is at its end; lower ones come first.
  constexpr int priorities[] = {
      0, 0, 0, -1, -4, -5, -6, 1, 100, std::numeric_limits<int>::min(), std::numeric_limits<int>::max()};
  const int priority = priorities[below(std::size(priorities))];
  lane.priority = std::clamp(priority, -5, 0);
  if (traits_.foreign && chance(2)) {
    say("a foreign stream");
    if (!backend(on).create_stream(&lane.foreign, priority).ok()) {
      judge(thole::Error(Errc::device_error, "create_stream"), true, {});
      return;
    }
    (void)call(true, {},
               [&] { lane.ref = thole::detail::unwrap(thole::detail::stream_from_native(on, lane.foreign)); });
    (void)backend(on).stream_id(lane.foreign, &id);
  } else {
    say(fmt::format("a stream of priority {}", priority));
    const auto make = [&] {
      if (chance(2))
        lane.own.emplace(on, thole::StreamOptions{.priority = priority});
      else
        lane.own.emplace(or_throw(thole::Stream::try_make(on, {.priority = priority})));
    };
    if (call(true, {}, make)) return;
    lane.ref = *lane.own;
    (void)backend(on).stream_id(lane.ref->native(), &id);
  }
  lane.id = id;
  say(fmt::format("it is stream {} of device {}", id, lane.device));
  lanes_.push_back(std::move(lane));
  ledger_.look();
}

/// Questions that disturb nothing, also not a capture.
void Program::look_at_lane() {
  Lane* const lane = pick_lane(true);
  if (lane == nullptr) return;
  say(fmt::format("what is {}?", lane->id));
  (void)call(true, {}, [&] {
    const thole::StreamRef view = *lane->ref;
    const int priority = view.priority();
    if (priority != lane->priority)
      broken(fmt::format("a stream's priority is {}, should be {}", priority, lane->priority));
    if (view.id() != lane->id) broken("a stream has another number");
    if (view.capturing() != lane->capture.has_value()) broken("a stream does not know whether it captures");
    if (!(view.device() == device(*lane)) || !(view == *lane->ref)) broken("a view is of another stream");
  });
  ledger_.look();
}

void Program::drop_lane(Lane& lane) {
  if (lane.branch_of != 0 || has_branches(lane)) return;
  // A foreign stream must outlive the device memory that was made on it.
  const auto made_here = [&](const auto& of) { return of.memory->made_on == lane.id; };
  if (lane.foreign != nullptr &&
      (lane.capture || std::ranges::any_of(device_memory_, made_here) ||
       std::ranges::any_of(lists_, [&](const KeptList& kept) { return std::ranges::any_of(kept.entries, made_here); })))
    return;
  say(fmt::format("drop stream {}{}", lane.id, lane.capture ? ", which captures" : ""));
  // Where an event failed before the capture, none can follow any more: thole keeps the stream, and what it used.
  const bool may_be_kept = lane.capture && traits_.faults;
  if (lane.capture) {
    lane.capture->life->graph = false;
    capture_dropped_ = true;
  }
  if (may_be_kept) uses_lost_ = true;
  if (&lane != &lanes_.back()) std::swap(lane, lanes_.back());
  Lane gone = std::move(lanes_.back());
  lanes_.pop_back();
  // What was given back in a capture there is known to be done from the next use of the stream on.
  if (gone.foreign != nullptr && freed_in_capture_) (void)gone.ref->native();
  if (gone.foreign != nullptr && !backend(devices_[gone.device]).destroy_stream(gone.foreign).ok() && !lost_)
    broken("a foreign stream could not be destroyed");
  if (gone.own) {
    gone.own.reset();
    if (fault_ && fault_fired()) uses_lost_ = true;
    if (!may_be_kept) (void)call(false, {Errc::invalid_argument}, [&] { (void)gone.ref->native(); });
  }
  ledger_.look();
}

void Program::drop_lane() {
  if (lanes_.size() > 2) drop_lane(lanes_[below(lanes_.size())]);
}

void Program::hold_or_release() {
  Lane* const lane = pick(lanes_);
  if (lane == nullptr || !traits_.automatic) return;
  const bool hold = chance(2);
  say(fmt::format("{} {}", hold ? "hold" : "release", lane->id));
  if (hold)
    device(*lane).simulation().hold(*lane->ref);
  else
    device(*lane).simulation().release(*lane->ref);
  lane->held = hold;
  ledger_.look();
  look_at_kernels();
}

// ---- Events

void Program::event() {
  Lane* const lane = pick_lane(true);
  if (lane == nullptr) return;
  if (events_.empty() || (events_.size() < 6 && chance(2))) {
    say(fmt::format("record({})", lane->id));
    if (lane->capture) {  // an event of the capture, which answers nothing
      (void)call(true, {}, [&] {
        const thole::Event captured = lane->ref->record({.timing = chance(2)});
        const auto ready = captured.try_ready();
        if (ready || ready.error().errc() != Errc::capturing) broken("an event of a capture answers");
        ask_in_capture(captured);
      });
      ledger_.look();
      return;
    }
    (void)keep_event(*lane, chance(3));
    ledger_.look();
    return;
  }
  std::swap(events_[below(events_.size())], events_.back());
  KeptEvent& kept = events_.back();
  const auto open = [&] { return ledger_.open(kept.use); };
  switch (below(4)) {
    case 0:
      say("drop an event");
      events_.pop_back();
      break;
    case 1:
      say(fmt::format("ready() of {}", kept.use.stream));
      (void)call(true, {}, [&] {
        const bool was_open = open();
        const bool ready = kept.event.ready();
        if (!ready && !was_open) broken("an event is not ready");
        if (ready && !holds([&] { return !open(); })) broken("an event is ready too early");
      });
      break;
    case 2:
      say(fmt::format("wait({}) for an event of {}", lane->id, kept.use.stream));
      (void)call([&] { return !lane->capture || !open(); }, {Errc::capturing}, [&] { lane->ref->wait(kept.event); });
      break;
    default: {
      if (!run_dry()) return;
      say("synchronize an event");
      const WhileWaiting stepping(devices_, lanes_);
      (void)call(true, {}, [&] { kept.event.synchronize(); });
    }
  }
  ledger_.look();
}

// ---- All of it

void Program::collect() {
  Heap* const heap = pick(heaps_);
  if (heap == nullptr) return;
  say("collect");
  (void)heap->heap.collect();
  ledger_.look();
  ledger_.forget();
}

void Program::collect_all() {
  for (const Heap& heap : heaps_) (void)heap.heap.collect();
  ledger_.look();
}

void Program::drain() {
  Heap* const heap = pick(heaps_);
  if (heap == nullptr || !settle_all()) return;
  say("drain");
  const WhileWaiting stepping(devices_, lanes_);
  const bool unknown =
      freed_in_capture_ && std::ranges::any_of(lanes_, [](const Lane& each) { return each.capture.has_value(); });
  if (call(true, {unknown ? Errc::capturing : Errc::device_lost}, [&] { heap->heap.drain(); })) return;
  ledger_.look();
  if (heap->heap.stats().in_flight != 0 && !traits_.background && !traits_.orphans && !uses_lost_)
    broken(fmt::format("{} bytes in flight after drain", heap->heap.stats().in_flight));
}

void Program::synchronize() {
  Lane* const lane = pick_lane(true);
  if (lane == nullptr || !settle_all()) return;
  say(fmt::format("synchronize({})", lane->id));
  const WhileWaiting stepping(devices_, lanes_);
  (void)call(!lane->capture, {Errc::capturing}, [&] { lane->ref->synchronize(); });
  ledger_.look();
}

void Program::stats() {
  Heap* const heap = pick(heaps_);
  if (heap == nullptr) return;
  say("figures");
  auto arena = heap->heap.arena();
  std::size_t alive = 0;
  for (const MemoryPtr& memory : ledger_.pinned())
    if (memory->arena == heap->arena && (memory->handle || memory->readers != 0 || memory->writer))
      alive += memory->bytes();
  const auto figures = arena.stats();
  if (figures.in_use < alive) broken(fmt::format("{} bytes in use, but buffers hold {}", figures.in_use, alive));
  if (figures.in_use + figures.in_flight > figures.capacity) broken("more memory is in use than there is");
  const auto of_heap = heap->heap.stats();
  if (of_heap.recycled > of_heap.deferred || of_heap.peak < of_heap.in_use)
    broken("a heap's figures contradict each other");
  if (chance(4)) {
    std::ostringstream picture;
    arena.draw_svg(picture);
    if (heap->heap.report().text().size() + picture.str().size() == 0) broken("no picture");
  }
  if (chance(2)) {
    say("trim");
    (void)arena.trim();
  }
}

void Program::fault() {
  if (!traits_.faults || fault_) return;
  using thole::SimulatedCall;
  // A device that finds pinned memory where the CPU does need not be asked.
  if (traits_.own_addresses && chance(8)) return fault(SimulatedCall::device_address);
  constexpr SimulatedCall calls[] = {
      SimulatedCall::register_host, SimulatedCall::allocate_host,   SimulatedCall::allocate_device,
      SimulatedCall::create_stream, SimulatedCall::create_event,    SimulatedCall::record_event,
      SimulatedCall::query_event,   SimulatedCall::wait_event,      SimulatedCall::copy,
      SimulatedCall::host_function, SimulatedCall::retain_in_graph, SimulatedCall::launch_graph,
      SimulatedCall::kernel};
  const auto which = calls[below(std::size(calls))];
  // Behind a use on a foreign stream thole waits where it cannot record; nobody would step the device.
  if (traits_.foreign && which == SimulatedCall::record_event) return;
  fault(which);
}

void Program::fault(thole::SimulatedCall which) {
  const std::size_t nth = 1 + below(3);
  say(fmt::format("fault: call {} of kind {}", nth, static_cast<int>(which)));
  auto simulation = devices_[0].simulation();
  simulation.fail_call(which, nth);
  fault_ = {which, simulation.calls(which) + nth};
}

}  // namespace model
