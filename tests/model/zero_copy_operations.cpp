// Work that reads and writes pinned memory itself, at the address that use_on hands on: on some devices it is not the
// CPU's, and good for the device alone.

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "api/handle_access.hpp"
#include "program.hpp"

namespace model {

namespace detail = thole::detail;

const Word* Program::place(const Lane& lane, const Memory& memory) const {
  if (memory.of_device || memory.count == 0 || !own_addresses_[lane.device]) return memory.data;
  return static_cast<const Word*>(own_address(memory.data));
}

/// A copy that the program enqueues itself, in the function of a use, between the two pointers that it is given.
void Program::copy_by_place() {
  Lane* const lane = pick_lane(true);
  HostBuffer* const host = pick_buffer();
  DeviceMemory* const there = pick(device_memory_);
  if (lane == nullptr || host == nullptr || there == nullptr || there->memory->device != lane->device) return;
  const std::size_t most = std::min(host->memory->count, there->memory->count);
  if (most == 0) return;
  const std::size_t count = 1 + below(most);
  const std::size_t offset = below(host->memory->count - count + 1);
  const std::size_t offset_there = below(there->memory->count - count + 1);
  const bool to_device = chance(2);
  const MemoryPtr pinned = host->memory, device_side = there->memory;
  const std::vector<Entry> entries{{pinned, 0, pinned->count, !to_device},
                                   {device_side, 0, device_side->count, to_device}};
  for (const Entry& entry : entries)
    if (!order(*lane, *entry.memory, entry.writes)) return;
  const auto codes = forbidden(*lane, entries);
  const auto open = [&] {
    return std::ranges::any_of(entries,
                               [&](const Entry& entry) { return in_capture(*lane, *entry.memory, entry.writes); });
  };
  say(fmt::format("a copy in use_on({}), of {} words {} the device{}{}", lane->id, count, to_device ? "to" : "from",
                  lane->capture ? ", captured" : "", codes.empty() ? "" : ", forbidden"));
  Node node{to_device ? pinned : device_side,
            to_device ? device_side : pinned,
            to_device ? offset : offset_there,
            to_device ? offset_there : offset,
            count,
            to_device,
            false};
  bool enqueued = false;
  const auto copy = [&](const Word* at, const Word* at_there, thole::NativeStream native) {
    if (at != place(*lane, *pinned) || at_there != device_side->data) broken("use_on gives another pointer");
    node.place = at + offset;
    auto* const from = to_device ? node.place : at_there + offset_there;
    auto* const to = const_cast<Word*>(to_device ? at_there + offset_there : node.place);
    const auto kind = to_device ? detail::CopyKind::host_to_device : detail::CopyKind::device_to_host;
    auto& seam = *detail::HandleAccess::core(device(*lane))->backend;
    if (!seam.copy(to, from, count * sizeof(Word), kind, native).ok())
      throw thole::Error(Errc::device_error, "the raw copy was refused");
    enqueued = true;
    if (lane->capture) captured(*lane, node);
    if (chance(4)) touch_inside(*host, !to_device);
  };
  const Errc rule = !codes.empty() ? codes.front() : lane->capture ? Errc::in_flight : Errc::borrowed;
  const auto failed =
      call([&] { return codes.empty() && !open(); }, {rule, codes.empty() ? rule : codes.back()},
           [&] {
             if (to_device)
               thole::use_on(*lane->ref, thole::reads(host->buffer), thole::writes(there->buffer), copy);
             else
               thole::use_on(*lane->ref, thole::writes(host->buffer), thole::reads(there->buffer), copy);
           });
  if (failed && enqueued) broken("use_on failed when its function had run");
  if (failed) return ledger_.look();
  if (!lane->capture) {
    (void)ledger_.next_operation();
    const auto position = to_device ? position_of_copy(lane->id, device_side->data + offset_there, node.place)
                                    : position_of_copy(lane->id, node.place, device_side->data + offset_there);
    ledger_.launched(lane->id, {position, position}, node.from, node.from_offset, node.to, node.to_offset, count,
                     to_device);
    pinned->uses.back().tracked = device_side->uses.back().tracked = true;
    ledger_.look();
  }
  std::erase_if(buffers_, [](const HostBuffer& each) { return !each.memory->handle; });  // dropped in the function
}

}  // namespace model
