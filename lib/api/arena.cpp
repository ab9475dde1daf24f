#include <thole/arena.hpp>

#include <memory>
#include <string>
#include <utility>

#include "api/handle_access.hpp"
#include "base/bytes.hpp"
#include "base/host_function.hpp"
#include "blocks/block_index.hpp"
#include "blocks/block_pool.hpp"
#include "heap/caretaker.hpp"
#include "heap/heap_core.hpp"
#include "heap/heap_figures.hpp"
#include "heap/size_class.hpp"
#include "inspect/draw_svg.hpp"
#include "inspect/leaks.hpp"
#include "memory/store.hpp"

namespace thole::inline v0_1 {

using detail::HandleAccess;

namespace {

/// Throws std::bad_alloc.
void begin_upkeep(const std::shared_ptr<detail::ArenaCore>& arena, const ArenaOptions& options) {
  constexpr auto at_once = std::chrono::steady_clock::time_point::min();
  const bool pins = options.pin_in_background && arena->store().capacity() < options.bytes;
  const bool trims = options.trim_after.count() != 0;
  if (!pins && !trims) return;
  arena->upkeep.trim_after = options.trim_after;
  if (pins) arena->upkeep.next_piece = at_once;
  if (trims) arena->upkeep.next_look = at_once;
  if (detail::take_care_of(arena)) return;
  const Error why(Errc::limit, std::string("PinnedArena: the system has no thread to ") +
                                   (pins ? "pin in the background" : "") + (pins && trims ? " and to " : "") +
                                   (trims ? "trim by age" : ""));
  if (pins)
    arena->store().stop_pinning(why);  // keeps the error, too
  else
    arena->device()->keep_error(why);
}

}  // namespace

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
  if (options.piece_bytes == 0 && options.pin_in_background)
    return invalid("pieces of 0 bytes; piece_bytes must be at least 1");
  if (options.trim_after.count() < 0)
    return invalid("trim_after is " + std::to_string(options.trim_after.count()) + " ns; it must not be negative");
  const auto& core = HandleAccess::core(device);
  if (core == nullptr) return tl::unexpected(detail::moved_from("PinnedArena", "the device"));
  if (core->lost()) return tl::unexpected(core->lost_error("PinnedArena"));
  auto store = detail::Store::open(core,
                                   {.bytes = options.bytes,
                                    .max_bytes = options.max_bytes == 0 ? options.bytes : options.max_bytes,
                                    .region = {.pin = options.pin_method,
                                               .numa_node = options.numa_node.value_or(-1),
                                               .in_core_dumps = options.in_core_dumps},
                                    .hooks = {options.on_region_added, options.on_region_removed},
                                    .piece = options.pin_in_background ? options.piece_bytes : 0},
                                   may_unpin ? detail::Unpinning::if_needed : detail::Unpinning::never);
  if (!store) return tl::unexpected(std::move(store.error()));
  const auto close = [](detail::Store* unused) { unused->close(); };
  std::unique_ptr<detail::Store, decltype(close)> kept(*store, close);
  auto arena = std::make_shared<detail::ArenaCore>(core, kept.get());
  (void)kept.release();
  begin_upkeep(arena, options);
  detail::look_for_leaks_at_the_end();
  return PinnedArena(std::move(arena));
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
  auto store = arena.store().stats();
  const auto heaps = detail::figures_of_heaps(arena);
  return {.capacity = store.capacity,
          .max_capacity = store.max_capacity,
          .in_use = heaps.in_use,
          .in_flight = heaps.in_flight,
          .cached = heaps.cached,
          .largest_free = detail::size_class::round_down(store.largest_free),
          .wasted = store.wasted + heaps.waste,
          .peak = store.peak,
          .regions = store.regions,
          .grown = store.grown,
          .buffers_made = heaps.made,
          .bookkeeping = detail::record_bytes(),
          .trouble = store.trouble,
          .to_pin = store.to_pin,
          .pinning_failed = std::move(store.pinning_failed)};
}

std::size_t PinnedArena::trim() {
  constexpr const char* call = "PinnedArena::trim";
  if (core(call)->store().is_telling())
    throw Error(Errc::invalid_argument,
                std::string(call) + ": on_region_added and on_region_removed must not trim their own arena");
  if (detail::in_host_function())
    throw Error(Errc::device_error, std::string(call) + ": NotPermitted: nothing can be unpinned in a host function");
  core_->flush();
  const std::size_t bytes = core_->store().trim();
  detail::trim_records();
  detail::BlockIndex::trim();
  return bytes;
}

std::vector<gsl::span<std::byte>> PinnedArena::regions() const {
  return core("PinnedArena::regions")->store().regions();
}

void PinnedArena::draw_svg(std::ostream& out) const {
  const auto& arena = *core("PinnedArena::draw_svg");
  const ArenaStats now = stats();
  const auto bytes = [](std::size_t count) { return detail::bytes_text(count); };
  std::string grows = now.max_capacity > now.capacity ? ", may grow to " + bytes(now.max_capacity) : "";
  const auto kept = detail::keep_records();
  detail::draw_svg(
      arena.store().spans(),
      {.title = "Pinned memory of " + std::string(arena.device()->backend->name()),
       .totals = bytes(now.capacity) + " in " + std::to_string(now.regions) +
                 (now.regions == 1 ? " region" : " regions") + grows + "; " + bytes(now.in_use) + " in use, " +
                 bytes(now.in_flight) + " in flight, " + std::to_string(now.buffers_made) + " buffers made"},
      out);
}

}  // namespace thole::inline v0_1
