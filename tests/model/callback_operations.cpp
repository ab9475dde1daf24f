// Functions that the program hands over, and that touch the buffers that they are about.

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "program.hpp"

namespace model {

/// In a function of use_on, whose use is a borrow of its kind meanwhile.
void Program::touch_inside(HostBuffer& target, bool writes) {
  if (inside_ == 2 || target.memory->count == 0 || !target.memory->handle) return;
  const MemoryPtr kept = target.memory;
  Memory& memory = *kept;
  ++inside_;
  if (writes)
    memory.writer = true;
  else
    ++memory.readers;
  say("  in its function:");
  switch (below(10)) {
    case 0:
    case 1:
      try_borrow(target, chance(2));
      break;
    case 2:
      (void)call(false, {Errc::borrowed}, [&] { (void)target.buffer.borrow_mut(); });
      if (writes) (void)call(false, {Errc::borrowed}, [&] { (void)target.buffer.borrow(); });
      break;
    case 3:
    case 4:
      if (Lane* const lane = pick_lane(true)) to_device_new(target, *lane);
      break;
    case 5:
      if (Lane* const lane = pick_lane(true)) use_on(&target, lane);
      break;
    case 6:
      if (Lane* const lane = pick_lane(false); lane != nullptr && !device_memory_.empty()) {
        const DeviceMemory& from = device_memory_[below(device_memory_.size())];
        const std::size_t count = std::min(memory.count, from.memory->count);
        if (count != 0 && from.memory->device == lane->device)
          (void)call(false, {Errc::borrowed}, [&] {
            target.buffer.async_from_device(*lane->ref, std::as_const(from.buffer).span().subspan(0, count));
          });
      }
      break;
    case 7: {
      Buffer moved = std::move(target.buffer);
      target.buffer = std::move(moved);
      break;
    }
    case 8: {
      say("drop the buffer");
      memory.handle = false;
      const Buffer gone = std::move(target.buffer);
      break;
    }
    default:
      collect_all();
  }
  if (writes)
    memory.writer = false;
  else
    --memory.readers;
  --inside_;
}

/// A function that runs in a stream and owns buffers: they go there, on the device's thread.
void Program::owning_host_function() {
  Lane* const lane = pick_lane(false);
  if (lane == nullptr || buffers_.empty()) return;
  std::swap(buffers_[below(buffers_.size())], buffers_.back());
  struct Owned {
    std::optional<Buffer> buffer;
    std::optional<thole::DeviceBuffer<Word>> device_buffer;
    MemoryPtr memory;
    ~Owned() { memory->handle = false; }
  };
  const auto owned = std::make_shared<Owned>();
  owned->memory = buffers_.back().memory;
  owned->memory->let_go_later = true;
  owned->buffer = std::move(buffers_.back().buffer);
  buffers_.pop_back();
  // Device memory is then freed by a thread of the library's own.
  if (traits_.orphans && !device_memory_.empty() && !busy_for_host(*device_memory_.back().memory, true) &&
      !ledger_.in_graph(*device_memory_.back().memory)) {
    owned->device_buffer = std::move(device_memory_.back().buffer);
    device_memory_.pop_back();
  }
  const bool at_once = chance(2);
  say(fmt::format("launch_host_function({}) that owns {} words{}", lane->id, owned->memory->count,
                  owned->device_buffer ? " and device memory" : ""));
  Kernel& kernel = *kernels_.emplace_back(std::make_unique<Kernel>());
  const auto failed = call(true, {}, [&] {
    lane->ref->launch_host_function([owned, at_once, self = &kernel] {
      self->ran = true;
      owned->memory->handle = false;
      if (!at_once) return;  // it goes with the function
      owned->device_buffer.reset();
      owned->buffer.reset();
    });
  });
  if (failed) kernels_.pop_back();
  ledger_.look();
}

}  // namespace model
