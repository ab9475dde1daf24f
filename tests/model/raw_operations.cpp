// A heap's memory by its addresses: allocate, use_on, record_use, try_wait_for, find, and the ways to give it back. The
// program keeps its own rules there: the CPU touches memory only when a wait said that it may.

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "api/handle_access.hpp"
#include "program.hpp"

namespace model {

using thole::Access;

void Program::raw_operation() {
  if (raws_.empty() || (raws_.size() < 10 && chance(3))) return allocate_raw();
  std::swap(raws_[below(raws_.size())], raws_.back());
  switch (below(9)) {
    case 0:
    case 1:
      return use_raw();
    case 2:
    case 3:
      return record_raw();
    case 4:
    case 5:
      return wait_raw();
    case 6:
      return find_raw();
    case 7:
      return wrong_raw();
    default:
      return deallocate_raw();
  }
}

void Program::allocate_raw() {
  Heap* const heap = pick(heaps_);
  if (heap == nullptr) return;
  constexpr std::size_t alignments[] = {4, 64, 64, 256, 4096};
  const std::size_t count = some_count();
  const std::size_t bytes = count * sizeof(Word) + (count != 0 ? below(4) : 0);
  const std::size_t alignment = alignments[below(5)];
  say(fmt::format("allocate {} bytes, aligned to {}, in arena {}", bytes, alignment, heap->arena));
  const auto tag = next_tag();
  void* data = nullptr;
  const bool large = bytes > heap->first;
  const auto failed = call(true, {Errc::out_of_memory, large ? Errc::too_large : Errc::out_of_memory}, [&] {
    data = chance(2) ? heap->heap.allocate(bytes, alignment, location(tag))
                     : or_throw(heap->heap.try_allocate(bytes, alignment, location(tag)));
  });
  if (failed) return;
  if (count == 0) {
    if (data != nullptr || !heap->heap.deallocate(nullptr)) broken("0 bytes are memory");
    return;
  }
  auto* const first = static_cast<std::byte*>(data);
  if (reinterpret_cast<std::uintptr_t>(data) % alignment != 0) broken("raw memory is not aligned as asked");
  const auto arena = heap->heap.arena();
  if (!arena.contains(first) || !arena.contains(first + bytes - 1)) broken("raw memory lies outside of its arena");
  ledger_.look();
  auto memory = ledger_.made(static_cast<Word*>(data), count, heap->arena);
  memory->heap = heap->number;
  memory->tag = tag;
  memory->content = ledger_.fresh(count);
  std::ranges::copy(memory->content, memory->data);
  raws_.push_back({heap->heap, std::move(memory), bytes});
}

/// As use_on() of a buffer, by an address in the memory.
void Program::use_raw() {
  Lane* const lane = pick_lane(true);
  if (lane == nullptr) return;
  const Raw& raw = raws_.back();
  Memory& memory = *raw.memory;
  const bool writes = chance(2);
  if (!order(*lane, memory, writes)) return;
  say(fmt::format("use_on({}, {}) of {} raw words{}", lane->id, writes ? "writes" : "reads", memory.count,
                  lane->capture ? ", captured" : ""));
  Kernel& kernel = lane->capture ? graph_kernel_ : *kernels_.emplace_back(std::make_unique<Kernel>());
  bool ran = false;
  const auto run = [&](thole::NativeStream native) {
    ran = true;
    const auto inside = raw.heap.try_wait_for(memory.data, Access::device_reads, std::chrono::nanoseconds(0));
    if (writes && (inside || inside.error().errc() != Errc::borrowed))
      broken("raw memory may be read while a function runs that writes it");
    if (!lane->capture) {
      kernel.data = memory.data;
      kernel.writes = writes;
      if (writes) memory.content = ledger_.fresh(memory.count);
      memory.known = memory.known || writes;
      if (memory.known) kernel.content = std::make_shared<const Content>(memory.content);
    }
    enqueue_raw(device(*lane), native, kernel);
    if (lane->capture) captured(*lane, {raw.memory, nullptr, 0, 0, 0, false, writes});
  };
  Word* const at = memory.data + below(memory.count);
  const auto failed = call([&] { return !in_capture(*lane, memory, writes); }, {Errc::in_flight},
                           [&] {
                             if (writes)
                               raw.heap.use_on(at, *lane->ref, Access::device_writes, run);
                             else
                               raw.heap.use_on(static_cast<const Word*>(at), *lane->ref, Access::device_reads, run);
                           });
  if (failed && !lane->capture) ran ? void(kernel.ran = true) : kernels_.pop_back();
  if (failed && writes && ran) memory.known = false;
  if (failed || lane->capture) return ledger_.look();
  ledger_.clean(memory);
  const auto position = position_of_function(lane->id, &kernel);
  Ledger::note(memory, {lane->id, position, writes, true});
  if (writes) ledger_.written(lane->id, position, raw.memory, 0, std::make_shared<const Content>(memory.content));
  ledger_.look();
}

/// Work of the program's own in the stream, which orders it itself. Nothing where it cannot be.
std::optional<Use> Program::enqueue_raw_work(const Raw& raw, Lane& lane, bool writes) {
  Memory& memory = *raw.memory;
  if (lane.capture && ledger_.conflict(memory, writes, false)) return {};
  if (!order(lane, memory, writes, true)) return {};
  say(fmt::format("work of the program's own on {} that {} {} raw words{}", lane.id, writes ? "writes" : "reads",
                  memory.count, lane.capture ? ", captured" : ""));
  if (lane.capture) {
    void* const native = thole::detail::HandleAccess::raw(*lane.ref, "model");
    if (call(true, {}, [&] { enqueue_raw(device(lane), native, graph_kernel_); })) return {};
    return Use{lane.id, 0, writes, false};
  }
  Kernel& kernel = *kernels_.emplace_back(std::make_unique<Kernel>());
  kernel.data = memory.data;
  kernel.writes = writes;
  if (writes)
    kernel.content = std::make_shared<const Content>(ledger_.fresh(memory.count));
  else if (memory.known)
    kernel.content = std::make_shared<const Content>(memory.content);
  if (call(true, {}, [&] { enqueue_raw(device(lane), lane.ref->native(), kernel); })) {
    kernels_.pop_back();
    return {};
  }
  ledger_.clean(memory);
  const auto position = position_of_function(lane.id, &kernel);
  Ledger::note(memory, {lane.id, position, writes, false});
  if (writes) {
    memory.content = *kernel.content;
    memory.known = true;
    ledger_.written(lane.id, position, raw.memory, 0, kernel.content);
  }
  return memory.uses.back();
}

/// It tells of it afterwards.
void Program::record_raw() {
  Lane* const lane = pick_lane(true);
  if (lane == nullptr) return;
  const Raw& raw = raws_.back();
  Memory& memory = *raw.memory;
  const bool writes = chance(2);
  if (!enqueue_raw_work(raw, *lane, writes)) return;
  const Word* const at = memory.data + below(memory.count);
  const bool tries = chance(2);
  say("record_use");
  const auto failed = call(true, {}, [&] {
    const auto record = [&](auto access) {
      return tries ? or_throw(raw.heap.try_record_use(at, *lane->ref, access))
                   : raw.heap.record_use(at, *lane->ref, access);
    };
    if (!(writes ? record(Access::device_writes) : record(Access::device_reads)))
      broken("record_use does not know the heap's own memory");
  });
  if (!lane->capture) {
    if (!failed) memory.uses.back().tracked = true;
    return ledger_.look();
  }
  // Where the graph refused to keep it, it must not be launched with work that touches it, as this one's does not.
  captured(*lane, failed ? Node{} : Node{raw.memory, nullptr, 0, 0, 0, false, writes});
}

void Program::wait_raw() {
  const Raw& raw = raws_.back();
  Memory& memory = *raw.memory;
  const bool write = chance(2);
  if (busy_for_host(memory, write)) return;
  const auto wait = [&](std::chrono::nanoseconds time) {
    const bool idle = memory.surely_idle();
    const Word* const at = memory.data + below(memory.count);
    say(fmt::format("try_wait_for to {} {} raw words ({})", write ? "write" : "read", memory.count,
                    ledger_.conflict(memory, write, true) ? "in flight" : "done"));
    const auto waited = write ? raw.heap.try_wait_for(at, Access::device_writes, time)
                              : raw.heap.try_wait_for(at, Access::device_reads, time);
    const auto error = waited ? std::nullopt : std::optional(waited.error());
    judge(error, error || holds([&] { return !ledger_.conflict(memory, write, true); }), {Errc::timed_out});
    if (error && idle) broken("a wait for raw memory that nothing uses failed");
    return error.has_value();
  };
  if (chance(4)) {
    if (!settle_all()) return;
    const WhileWaiting stepping(devices_, lanes_);
    if (wait(thole::forever)) return;
  } else if (wait(short_time())) {
    return ledger_.look();
  }
  ledger_.look();  // before anything is written
  if (busy_for_host(memory, write)) return;
  const auto wrong = difference(memory.data, memory.content.data(), memory.known ? memory.count : 0);
  if (!wrong.empty()) broken("raw memory shows a wrong payload: " + wrong);
  if (!write) return;
  memory.content = ledger_.fresh(memory.count);
  memory.known = true;
  memory.used = false;
  std::ranges::copy(memory.content, memory.data);
}

void Program::find_raw() {
  const Raw& raw = raws_.back();
  const Memory& memory = *raw.memory;
  say(fmt::format("find {} raw words ({})", memory.count, ledger_.conflict(memory, true, true) ? "in flight" : "done"));
  const bool idle = memory.surely_idle();
  const auto found = raw.heap.find(reinterpret_cast<const std::byte*>(memory.data) + below(raw.bytes));
  if (!found || found->data != memory.data || found->bytes != raw.bytes) broken("find tells of other memory");
  if (!found->in_flight && !holds([&] { return !ledger_.conflict(memory, true, true); }))
    broken("raw memory in flight is said to be done");
  if (found->in_flight && idle) broken("raw memory that nothing uses is said to be in flight");
  ledger_.look();
}

/// What is not the heap's, or is not where a block starts.
void Program::wrong_raw() {
  const Raw& raw = raws_.back();
  Lane* const lane = pick_lane(false);
  if (lane == nullptr) return;
  say("wrong calls for raw memory");
  auto* const inside = reinterpret_cast<std::byte*>(raw.memory->data) + 1;
  if (raw.bytes > 1 && (raw.heap.deallocate(inside) || raw.heap.deallocate(inside, *lane->ref)))
    broken("an address in the middle was deallocated");
  const Word local = 0;
  std::vector<const Word*> foreign = {&local};
  if (const HostBuffer* const buffer = pick_buffer(); buffer != nullptr && buffer->memory->count != 0)
    foreign.push_back(buffer->memory->data);
  const auto check = [&](const thole::PinnedHeap& heap, const Word* data) {
    auto* const address = const_cast<Word*>(data);
    if (heap.find(data) || heap.deallocate(address) || heap.deallocate(address, *lane->ref) ||
        heap.deallocate_after_all(address) || heap.record_use(data, *lane->ref, Access::device_reads))
      broken("a heap takes an address for its own");
    (void)call(false, {Errc::invalid_argument}, [&] {
      heap.use_on(data, *lane->ref, Access::device_reads, [](thole::NativeStream) { broken("a use of other memory"); });
    });
    const auto waited = heap.try_wait_for(data, Access::device_reads, thole::forever);
    if (waited || waited.error().errc() != Errc::invalid_argument) broken("a wait for other memory");
  };
  for (const Word* const data : foreign) check(raw.heap, data);
  for (const Heap& heap : heaps_)
    if (heap.heap != raw.heap) check(heap.heap, raw.memory->data);
  constexpr std::size_t none[] = {0, 48, 8192};
  (void)call(false, {Errc::invalid_argument}, [&] { (void)raw.heap.allocate(64, none[below(3)]); });
  ledger_.look();
}

void Program::deallocate_raw() {
  const Raw raw = raws_.back();
  Memory& memory = *raw.memory;
  const std::size_t way = below(traits_.after_all ? 3 : 2);  // behind everything: by a thread of the library's own
  Lane* const lane = way == 1 ? pick_lane(true) : nullptr;
  if (way == 1 && lane == nullptr) return;
  // What thole was not told of is the program's to wait for, or to say in which stream it is.
  if (way == 1 && !lane->capture && !order(*lane, memory, true)) return;
  if (way == 0 && busy_for_host(memory, true)) return;
  // Mostly behind work that nobody has recorded: only this says that it goes on.
  if (Lane* const there = way == 1 ? lane : pick_lane(false);
      way != 0 && there != nullptr && !there->capture && chance(2))
    (void)enqueue_raw_work(raw, *there, chance(2));
  if (way == 1 && !lane->capture && !traits_.after_all && chance(8)) begin_capture(*lane);
  if (way == 1 && std::ranges::any_of(memory.uses, [&](const Use& use) {
        return !use.tracked && use.stream != lane->id && ledger_.open(use) && lane->capture;
      }))
    return;
  bool gone = false;
  const bool tries = chance(2);
  memory.tried_in_capture = memory.tried_in_capture || (lane != nullptr && lane->capture);
  switch (way) {
    case 0:
      say(fmt::format("deallocate {} raw words", memory.count));
      gone = raw.heap.deallocate(memory.data);
      break;
    case 1:
      say(fmt::format("deallocate({}) {} raw words{}", lane->id, memory.count, lane->capture ? ", captured" : ""));
      Ledger::note(memory, {lane->id, model::enqueued(lane->id), true, false});
      if (call(true, {}, [&] {
            gone = tries ? or_throw(raw.heap.try_deallocate(memory.data, *lane->ref))
                         : raw.heap.deallocate(memory.data, *lane->ref);
          })) {
        memory.uses.pop_back();
        return;
      }
      memory.uses.back().tracked = true;
      freed_in_capture_ = freed_in_capture_ || lane->capture;
      if (lane->capture) memory.graphs.push_back(lane->capture->life);
      break;
    default:
      say(fmt::format("deallocate_after_all {} raw words", memory.count));
      for (const Lane& each : lanes_) Ledger::note(memory, {each.id, model::enqueued(each.id), true, false});
      memory.let_go_later = true;
      if (call(true, {}, [&] {
            gone = tries ? or_throw(raw.heap.try_deallocate_after_all(memory.data))
                         : raw.heap.deallocate_after_all(memory.data);
          }))
        return;
      after_all_ = true;
  }
  if (!gone) broken("raw memory is not deallocated");
  raws_.pop_back();
  memory.handle = false;
  if (raw.heap.find(memory.data) || raw.heap.deallocate(memory.data)) broken("memory is there that was deallocated");
  ledger_.look();
  ledger_.forget();
}

}  // namespace model
