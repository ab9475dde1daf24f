// Kernels of thole's own, which on a simulated device are functions for the CPU: launch(stream, reads(a), writes(b),
// gpu, cpu).

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "program.hpp"

namespace model {

/// What it reads must be what was there when it was launched, and what it writes is there when it is done.
void Program::launch_kernel() {
  Lane* const lane = pick_lane(false);
  HostBuffer* const from = pick_buffer();
  if (lane == nullptr || from == nullptr) return;
  DeviceMemory* device = chance(2) ? pick(device_memory_) : nullptr;
  if (device != nullptr && device->memory->device != lane->device) device = nullptr;
  HostBuffer* const host = device == nullptr ? pick_buffer() : nullptr;
  const MemoryPtr to = device != nullptr ? device->memory : host->memory;
  if (from->memory->count == 0 && to->count == 0) return;
  const std::vector<Entry> entries{{from->memory, 0, from->memory->count, false}, {to, 0, to->count, true}};
  for (const Entry& entry : entries)
    if (!order(*lane, *entry.memory, entry.writes)) return;
  auto codes = forbidden(*lane, entries);
  const bool allowed = codes.empty();
  codes.resize(std::max<std::size_t>(codes.size(), 2), allowed ? Errc::borrowed : codes[0]);
  say(fmt::format("launch({}) that reads {} words and writes {}{}{}", lane->id, from->memory->count, to->count,
                  device != nullptr ? " of the device" : "", allowed ? "" : ", forbidden"));
  Kernel& kernel = *kernels_.emplace_back(std::make_unique<Kernel>());
  if (from->memory->known) kernel.content = std::make_shared<const Content>(from->memory->content);
  const auto written = std::make_shared<const Content>(ledger_.fresh(to->count));
  const auto gpu = [](const Word*, Word*, thole::NativeStream) { broken("a kernel for a GPU on a simulated device"); };
  const auto cpu = [self = &kernel, written](gsl::span<const Word> x, gsl::span<Word> y) {
    self->ran = true;
    if (self->content != nullptr)
      if (const auto wrong = difference(x.data(), self->content->data(), self->content->size()); !wrong.empty())
        self->wrong = "a kernel read a wrong payload: " + wrong;
    std::ranges::copy(*written, y.begin());
  };
  const auto failed = call(allowed, {codes[0], codes[1]}, [&] {
    if (device != nullptr)
      thole::launch(*lane->ref, thole::reads(from->buffer), thole::writes(device->buffer), gpu, cpu);
    else
      thole::launch(*lane->ref, thole::reads(from->buffer), thole::writes(host->buffer), gpu, cpu);
  });
  if (failed) return kernels_.pop_back();
  const auto position = position_of_kernel(lane->id);
  for (const Entry& entry : entries) {
    if (entry.count == 0) continue;
    ledger_.clean(*entry.memory);
    Ledger::note(*entry.memory, {lane->id, position, entry.writes, true});
  }
  if (to->count != 0) {
    to->content = *written;
    to->known = true;
    ledger_.written(lane->id, position, to, 0, written);
  }
  ledger_.look();
}

}  // namespace model
