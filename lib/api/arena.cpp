#include <thole/arena.hpp>

#include <string>
#include <utility>

#include "api/handle_access.hpp"
#include "blocks/block_pool.hpp"
#include "heap/heap_core.hpp"
#include "heap/heap_figures.hpp"
#include "inspect/draw_svg.hpp"
#include "memory/store.hpp"

namespace thole {

using detail::HandleAccess;

PinnedArena::PinnedArena(const Device& device, const ArenaOptions& options)
    : PinnedArena(detail::unwrap(make(device, options, true))) {}

Result<PinnedArena> PinnedArena::try_make(const Device& device, const ArenaOptions& options) noexcept {
  return make(device, options, false);
}

Result<PinnedArena> PinnedArena::make(const Device& device, const ArenaOptions& options, bool may_unpin) noexcept try {
  const auto invalid = [](const std::string& text) {
    return tl::unexpected(Error(Errc::invalid_argument, "PinnedArena: " + text));
  };
  if (options.bytes == 0) return invalid("an arena of 0 bytes; bytes must be at least 1");
  if (options.max_bytes != 0 && options.max_bytes < options.bytes)
    return invalid("max_bytes is " + std::to_string(options.max_bytes) + ", below bytes, which is " +
                   std::to_string(options.bytes));
  if (options.pin_method != PinMethod::register_pages && options.pin_method != PinMethod::host_alloc)
    return invalid("pin_method " + std::to_string(static_cast<int>(options.pin_method)) + " is not one of PinMethod");
  if (options.numa_node && *options.numa_node < 0)
    return invalid("NUMA node " + std::to_string(*options.numa_node) + " does not exist");
  const auto& core = HandleAccess::core(device);
  if (core == nullptr) return tl::unexpected(detail::moved_from("PinnedArena", "the device"));
  if (core->lost()) return tl::unexpected(core->lost_error("PinnedArena"));
  auto store = detail::Store::open(core,
                                   {.bytes = options.bytes,
                                    .max_bytes = options.max_bytes == 0 ? options.bytes : options.max_bytes,
                                    .region = {.pin = options.pin_method,
                                               .numa_node = options.numa_node.value_or(-1),
                                               .in_core_dumps = options.in_core_dumps}},
                                   may_unpin ? detail::Unpinning::if_needed : detail::Unpinning::never);
  if (!store) return tl::unexpected(std::move(store.error()));
  return PinnedArena(std::make_shared<detail::ArenaCore>(core, *store));
} catch (const std::bad_alloc&) {
  return tl::unexpected(Error::make(
      Errc::out_of_memory, [] { return std::string("PinnedArena: the system has no memory for its bookkeeping"); }));
}

const std::shared_ptr<detail::ArenaCore>& PinnedArena::core(const char* call) const {
  if (core_ == nullptr) throw detail::moved_from(call, "the arena");
  if (!core_->of_this_process()) throw detail::of_another_process_error(call);
  return core_;
}

Device PinnedArena::device() const { return HandleAccess::device(core("PinnedArena::device")->device()); }
std::size_t PinnedArena::capacity() const { return core("PinnedArena::capacity")->store().stats().capacity; }
bool PinnedArena::contains(const void* pointer) const {
  return core("PinnedArena::contains")->store().contains(pointer);
}

ArenaStats PinnedArena::stats() const {
  const auto& arena = *core("PinnedArena::stats");
  const auto store = arena.store().stats();
  const auto heaps = detail::figures_of_heaps(arena);
  return {.capacity = store.capacity,
          .max_capacity = store.max_capacity,
          .in_use = heaps.in_use,
          .in_flight = heaps.in_flight,
          .cached = heaps.cached,
          .largest_free = store.largest_free,
          .wasted = store.wasted + heaps.waste,
          .peak = store.peak,
          .regions = store.regions,
          .grown = store.grown,
          .buffers_made = heaps.made,
          .bookkeeping = detail::record_bytes(),
          .trouble = store.trouble};
}

std::size_t PinnedArena::trim() {
  core("PinnedArena::trim")->flush();
  const std::size_t bytes = core_->store().trim();
  detail::trim_records();
  return bytes;
}

void PinnedArena::draw_svg(std::ostream& out) const {
  detail::draw_svg(core("PinnedArena::draw_svg")->store().spans(), out);
}

}  // namespace thole
