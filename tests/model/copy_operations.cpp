// Copies each way, device memory, use_on and host functions.

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "api/handle_access.hpp"
#include "program.hpp"

namespace model {

using thole::Access;

void enqueue_raw(const thole::Device& device, void* native, Kernel& kernel) {
  const auto status = thole::detail::HandleAccess::core(device)->backend->launch_host_function(
      native,
      [](void* argument) {
        auto& self = *static_cast<Kernel*>(argument);
        self.ran = true;
        if (self.content == nullptr) return;
        if (self.writes) {
          std::ranges::copy(*self.content, const_cast<Word*>(self.data));
          return;
        }
        const auto wrong = difference(self.data, self.content->data(), self.content->size());
        if (!wrong.empty()) self.wrong = "a kernel saw a wrong payload: " + wrong;
      },
      &kernel);
  if (!status.ok()) throw thole::Error(Errc::device_error, "the raw call was refused");
}

bool Program::in_capture(const Lane& lane, const Memory& memory, bool writes) const {
  return lane.capture && !lane.capture->seen && ledger_.conflict(memory, writes, true);
}

void Program::captured(Lane& lane, const Node& node) {
  auto& graph = *lane.capture;
  graph.nodes->push_back(node);
  for (const MemoryPtr& memory : {node.from, node.to})
    if (memory != nullptr) memory->graphs.push_back(graph.life);
}

void Program::enqueued(Lane& lane, const Node& node) {
  if (lane.capture) return captured(lane, node);
  (void)ledger_.next_operation();
  ledger_.copied(lane.id, node.from, node.from_offset, node.to, node.to_offset, node.count, node.to_device);
  ledger_.look();
}

MemoryPtr Program::device_memory(thole::DeviceBuffer<Word>& buffer, const Lane& lane) {
  auto memory = std::make_shared<Memory>();
  memory->data = buffer.span().native();
  memory->view = device(lane).simulation().view_of(memory->data);
  memory->count = buffer.size();
  memory->content.resize(buffer.size());
  memory->known = buffer.size() == 0;
  memory->made_on = lane.capture ? 0 : lane.id;
  memory->of_device = true;
  memory->device = lane.device;
  return memory;
}

void Program::to_device_new() {
  HostBuffer* const from = pick_buffer();
  Lane* const lane = pick_lane(true);
  if (from != nullptr && lane != nullptr) to_device_new(*from, *lane);
}

void Program::to_device_new(const HostBuffer& from, Lane& lane) {
  if (device_memory_.size() > 24 || !order(lane, *from.memory, false)) return;
  const Memory& memory = *from.memory;
  const bool empty = memory.count == 0;
  const bool borrowed = !empty && memory.writer;
  const auto open = [&] { return !empty && in_capture(lane, memory, false); };
  say(fmt::format("async_to_device({}) of {} words{}", lane.id, memory.count, lane.capture ? ", captured" : ""));
  std::optional<thole::DeviceBuffer<Word>> made;
  const auto failed = call([&] { return !borrowed && !open(); },
                           {borrowed       ? Errc::borrowed
                            : lane.capture ? Errc::in_flight
                                           : Errc::out_of_memory},
                           [&] { made = from.buffer.async_to_device(*lane.ref); });
  if (failed) return;
  auto target = device_memory(*made, lane);
  device_memory_.push_back({std::move(*made), target});
  if (!empty) enqueued(lane, {from.memory, target, 0, 0, memory.count, true});
}

void Program::to_device_span() {
  HostBuffer* const from = pick_buffer();
  Lane* const lane = pick_lane(true);
  DeviceMemory* const to = pick(device_memory_);
  if (from == nullptr || lane == nullptr || to == nullptr || to->memory->device != lane->device) return;
  if (!order(*lane, *from->memory, false) || !order(*lane, *to->memory, true)) return;
  const Memory& memory = *from->memory;
  const bool whole = chance(2);
  const std::size_t offset = whole ? 0 : below(memory.count + 1);
  const std::size_t to_offset = whole ? 0 : below(to->memory->count + 1);
  const std::size_t room = to->memory->count - to_offset;
  const std::size_t count = whole ? memory.count : std::min(memory.count - offset, room);
  const bool small = count > room;
  const bool borrowed = count != 0 && memory.writer;
  const auto open = [&] {
    return count != 0 && (in_capture(*lane, memory, false) || in_capture(*lane, *to->memory, true));
  };
  say(fmt::format("async_to_device({}, span) of {} words from {}{}", lane->id, count, offset,
                  lane->capture ? ", captured" : ""));
  const auto span = to->buffer.span().subspan(to_offset, room);
  const auto failed = call([&] { return !small && !borrowed && !open(); },
                           {small           ? Errc::too_small
                            : borrowed      ? Errc::borrowed
                            : lane->capture ? Errc::in_flight
                                            : Errc::too_small},
                           [&] {
                             if (whole)
                               from->buffer.async_to_device(*lane->ref, span);
                             else
                               from->buffer.async_to_device(*lane->ref, span, offset, count);
                           });
  if (!failed && count != 0) enqueued(*lane, {from->memory, to->memory, offset, to_offset, count, true});
}

void Program::to_host_new() {
  DeviceMemory* const from = pick(device_memory_);
  Lane* const lane = pick_lane(true);
  if (from != nullptr && lane != nullptr) to_host_new(*from, *lane);
}

void Program::to_host_new(const DeviceMemory& from, Lane& lane) {
  Heap* const heap = pick(heaps_);
  if (heap == nullptr || buffers_.size() > 40) return;
  if (from.memory->device != lane.device || !order(lane, *from.memory, false)) return;
  const std::size_t count = from.memory->count;
  const auto open = [&] { return count != 0 && in_capture(lane, *from.memory, false); };
  say(fmt::format("async_to_host({}) of {} words{}", lane.id, count, lane.capture ? ", captured" : ""));
  std::optional<Buffer> made;
  const auto failed = call([&] { return !open(); },
                           {lane.capture ? Errc::in_flight : Errc::out_of_memory, Errc::out_of_memory,
                            count * sizeof(Word) > heap->first ? Errc::too_large : Errc::out_of_memory},
                           [&] { made = from.buffer.async_to_host(*lane.ref, heap->heap); });
  if (failed) return;
  auto memory = adopt(*heap, *made, count, false);
  memory->content.resize(count);
  memory->known = count == 0;
  buffers_.push_back({std::move(*made), memory});
  if (count != 0) enqueued(lane, {from.memory, memory, 0, 0, count, false});
}

void Program::to_host_span() {
  DeviceMemory* const from = pick(device_memory_);
  HostBuffer* const to = pick_buffer();
  Lane* const lane = pick_lane(true);
  if (from == nullptr || lane == nullptr || to == nullptr || from->memory->device != lane->device) return;
  if (!order(*lane, *to->memory, true) || !order(*lane, *from->memory, false)) return;
  const Memory& memory = *to->memory;
  const std::size_t from_offset = chance(2) ? 0 : below(from->memory->count + 1);
  const std::size_t left = from->memory->count - from_offset;
  const std::size_t count = chance(2) ? left : std::min(left, memory.count);
  const std::size_t offset = count > memory.count ? 0 : below(memory.count - count + 1);
  const bool small = count > memory.count;
  const bool borrowed = count != 0 && (memory.writer || memory.readers != 0);
  const auto open = [&] {
    return count != 0 && (in_capture(*lane, memory, true) || in_capture(*lane, *from->memory, false));
  };
  say(fmt::format("async_from_device({}) of {} words to {}{}", lane->id, count, offset,
                  lane->capture ? ", captured" : ""));
  const auto failed = call([&] { return !small && !borrowed && !open(); },
                           {small           ? Errc::too_small
                            : borrowed      ? Errc::borrowed
                            : lane->capture ? Errc::in_flight
                                            : Errc::too_small},
                           [&] {
                             to->buffer.async_from_device(
                                 *lane->ref, std::as_const(from->buffer).span().subspan(from_offset, count), offset);
                           });
  if (!failed && count != 0) enqueued(*lane, {from->memory, to->memory, from_offset, offset, count, false});
}

void Program::make_device_memory() {
  Lane* const lane = pick_lane(true);
  if (lane == nullptr || device_memory_.size() > 24) return;
  const std::size_t count = some_count();
  say(fmt::format("DeviceBuffer({}, {})", lane->id, count));
  std::optional<thole::DeviceBuffer<Word>> made;
  if (call(true, {Errc::out_of_memory}, [&] { made.emplace(*lane->ref, count); })) return;
  auto memory = device_memory(*made, *lane);
  // Others may use it when its stream has allocated it.
  if (!lane->capture) Ledger::note(*memory, {lane->id, model::enqueued(lane->id), true, true});
  device_memory_.push_back({std::move(*made), std::move(memory)});
  ledger_.look();
}

bool Program::may_drop(const DeviceMemory& target) {
  const Memory& memory = *target.memory;
  if (ledger_.in_graph(memory)) return !busy_for_host(memory, true);  // it goes when nobody knows what its stream does
  Lane* const made_on = lane(memory.made_on);
  if (made_on != nullptr && !made_on->capture) return order(*made_on, memory, true);
  return !busy_for_host(memory, true);
}

void Program::drop_device_memory() {
  if (device_memory_.empty()) return;
  std::swap(device_memory_[below(device_memory_.size())], device_memory_.back());
  if (!may_drop(device_memory_.back())) return;
  DeviceMemory& gone = device_memory_.back();
  say(fmt::format("drop device memory of {} words", gone.memory->count));
  // A fault may leave memory in a graph that has no node of it, or a capture that does not end with its stream.
  if (!traits_.faults && gone.memory->count != 0 && gone.memory->graphs.empty() && gone.memory->lists == 0)
    dangling_.push_back(gone.buffer.span());
  if (dangling_.size() > 8) dangling_.pop_front();
  device_memory_.pop_back();
  ledger_.look();
}

void Program::dangling_span() {
  HostBuffer* const buffer = pick_buffer();
  Lane* const lane = pick_lane(true);
  if (buffer == nullptr || lane == nullptr || dangling_.empty()) return;
  const auto& span = dangling_[below(dangling_.size())];
  const std::size_t count = std::min(buffer->memory->count, span.size());
  if (count == 0) return;
  say("a copy through a span of device memory that is gone");
  (void)call(false, {Errc::invalid_argument}, [&] {
    if (chance(2))
      buffer->buffer.async_to_device(*lane->ref, span, 0, count);
    else
      buffer->buffer.async_from_device(*lane->ref, span.subspan(0, count));
  });
  ledger_.look();
}

void Program::wrong_calls() {
  HostBuffer* const buffer = pick_buffer();
  Lane* const lane = pick_lane(false);
  DeviceMemory* const memory = pick(device_memory_);
  if (buffer == nullptr || lane == nullptr || memory == nullptr) return;
  say("wrong calls");
  const std::size_t count = buffer->memory->count;
  if (memory->memory->device != lane->device && count != 0 && memory->memory->count >= count)
    (void)call(false, {Errc::wrong_device}, [&] { buffer->buffer.async_to_device(*lane->ref, memory->buffer.span()); });
  (void)call(false, {Errc::invalid_argument},
             [&] { buffer->buffer.async_to_device(*lane->ref, memory->buffer.span(), count + 1, 0); });
  (void)call(false, {Errc::invalid_argument},
             [&] { buffer->buffer.async_to_device(*lane->ref, memory->buffer.span(), count, 1); });
  (void)call(false, {Errc::invalid_argument}, [&] {
    (void)thole::PinnedHeap(heaps_.empty() ? arenas_.at(0).arena : heaps_.front().heap.arena(), {.alignment = 48});
  });
  ledger_.look();
}

void Program::use_on() {
  HostBuffer* const target = pick_buffer();
  Lane* const lane = pick_lane(true);
  if (target == nullptr || lane == nullptr) return;
  use_on(target, lane);
  std::erase_if(buffers_, [](const HostBuffer& each) { return !each.memory->handle; });  // dropped in the function
}

void Program::use_on(HostBuffer* target, Lane* lane) {
  const MemoryPtr kept = target->memory;
  Memory& memory = *kept;
  const bool writes = chance(2);
  const bool throws = chance(6);
  if (!order(*lane, memory, writes)) return;
  const bool empty = memory.count == 0;
  const bool borrowed = !empty && (memory.writer || (writes && memory.readers != 0));
  const auto open = [&] { return !empty && in_capture(*lane, memory, writes); };
  say(fmt::format("use_on({}, {}) of {} words{}", lane->id, writes ? "writes" : "reads", memory.count,
                  lane->capture ? ", captured" : ""));
  Kernel& kernel = lane->capture ? graph_kernel_ : *kernels_.emplace_back(std::make_unique<Kernel>());
  const auto forget_kernel = [&] {
    if (!lane->capture) kernels_.pop_back();
  };
  bool ran = false;
  bool refused = false;
  struct Own {};
  try {
    const auto failed = call([&] { return !borrowed && !open(); }, {borrowed ? Errc::borrowed : Errc::in_flight},
                             [&] {
                               const auto run = [&](const Word* pointer, thole::NativeStream native) {
                                 if (pointer != place(*lane, memory)) broken("use_on gives another pointer");
                                 ran = true;
                                 if (!lane->capture) {
                                   kernel.data = memory.data;
                                   kernel.writes = writes;
                                   if (writes) memory.content = ledger_.fresh(memory.count);
                                   if (writes) memory.known = true;
                                   if (memory.known) kernel.content = std::make_shared<const Content>(memory.content);
                                 }
                                 const bool before = chance(2);
                                 if (before) touch_inside(*target, writes);
                                 try {
                                   enqueue_raw(device(*lane), native, kernel);
                                 } catch (const thole::Error&) {
                                   refused = true;
                                   throw;
                                 }
                                 if (lane->capture)
                                   captured(*lane, {empty ? nullptr : kept, nullptr, 0, 0, 0, false, writes});
                                 if (!before) touch_inside(*target, writes);
                                 if (throws) throw Own{};
                                 return 42;
                               };
                               const int answer = writes ? target->buffer.use_on(*lane->ref, Access::device_writes, run)
                                                         : target->buffer.use_on(*lane->ref, Access::device_reads, run);
                               if (answer != 42) broken("use_on returns something else than its function");
                             });
    if (failed && !ran) return forget_kernel();
    if (!ran) broken("use_on did not run its function");
  } catch (const Own&) {
    if (!throws) throw;
  }
  if (refused) {
    kernel.ran = true;
    memory.known = memory.known && !writes;
    return;
  }
  if (empty || lane->capture) return;
  ledger_.clean(memory);
  const auto position = position_of_function(lane->id, &kernel);
  Ledger::note(memory, {lane->id, position, writes, true});
  if (writes) ledger_.written(lane->id, position, kept, 0, std::make_shared<const Content>(memory.content));
  ledger_.look();
}

void Program::host_function() {
  Lane* const lane = pick_lane(true);
  DeviceMemory* const target = pick(device_memory_);
  if (lane == nullptr) return;
  say(fmt::format("launch_host_function({})", lane->id));
  // Right behind a copy: the device's memory must hold what was copied.
  const bool looks = target != nullptr && !lane->capture && target->memory->made_on == lane->id &&
                     target->memory->known && order(*lane, *target->memory, false, true);
  Kernel& kernel = lane->capture ? graph_kernel_ : *kernels_.emplace_back(std::make_unique<Kernel>());
  if (looks) kernel.content = std::make_shared<const Content>(target->memory->content);
  const auto before = model::enqueued(lane->id);
  const auto failed = call(true, {}, [&] {
    lane->ref->launch_host_function([self = &kernel, data = looks ? target->memory->seen() : nullptr] {
      self->ran = true;
      if (data == nullptr) return;
      const auto wrong = difference(data, self->content->data(), self->content->size());
      if (!wrong.empty()) self->wrong = "a host function behind a copy saw a wrong payload: " + wrong;
    });
  });
  if (failed) {
    if (!lane->capture) kernels_.pop_back();
    return;
  }
  if (lane->capture) {
    captured(*lane, {});
    return;
  }
  if (looks && model::enqueued(lane->id) != before)
    Ledger::note(*target->memory, {lane->id, model::enqueued(lane->id), false, false});
  ledger_.look();
}

}  // namespace model
