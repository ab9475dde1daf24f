#include "inspect/leaks.hpp"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string_view>
#include <utility>

#include "backend/ask_until.hpp"
#include "backend/device_core.hpp"
#include "base/deadline.hpp"
#include "base/fork.hpp"
#include "blocks/block_pool.hpp"
#include "heap/collect.hpp"
#include "heap/heap_core.hpp"
#include "streams/part_blocks.hpp"

namespace thole::inline v0_1::detail {
namespace {

constinit std::atomic<bool> wanted{false};

struct Held {
  std::size_t buffers = 0;
  std::size_t bytes = 0;
  void add(std::size_t more) noexcept {
    ++buffers;
    bytes += more;
  }
  std::string text() const {
    return std::to_string(buffers) + (buffers == 1 ? " buffer, " : " buffers, ") + std::to_string(bytes) + " bytes";
  }
};

using Place = std::pair<std::string, std::uint_least32_t>;  // file and line

/// What the program has dropped, graphs that held buffers, may still wait for a thread of the library's to be
/// destroyed. Not for ever: a stream may be stuck.
void let_go_of_leftovers() {
  std::map<DeviceCore*, std::shared_ptr<DeviceCore>> devices;
  for_each_record([&](const Block& block) {
    if (block.holders.unreferenced()) return;
    HeapCore* const heap = block.heap.load(std::memory_order_relaxed);
    if (const auto arena = heap != nullptr ? heap->arena_if_any() : nullptr; arena != nullptr)
      devices.emplace(arena->device().get(), arena->device());
  });
  const Deadline deadline = deadline_after(std::chrono::seconds(1));
  for (const auto& [core, device] : devices) {
    (void)ask_until(*deadline, [&left = *device] {
      const bool gone = left.lost() || left.leftovers.empty();
      return Status{gone ? StatusCode::ok : StatusCode::not_ready};
    });
  }
  (void)collect_from_graphs();
}

/// Statics of the program are destroyed before: this runs when the library is unloaded, or after them where it is
/// linked into the program.
__attribute__((destructor)) void at_the_end() {
  if (!wanted.load(std::memory_order_relaxed)) return;
  try {
    let_go_of_leftovers();
    const std::string text = leaks_text();
    std::fputs(text.c_str(), stderr);
  } catch (const std::bad_alloc&) {
    std::fputs("thole: no memory to say what has leaked (THOLE_LEAKS)\n", stderr);
  }
}

}  // namespace

void look_for_leaks_at_the_end() noexcept {
  const char* const variable = std::getenv("THOLE_LEAKS");
  if (variable != nullptr && std::string_view(variable) == "1") wanted.store(true, std::memory_order_relaxed);
}

std::string leaks_text() {
  struct Arena {
    std::string name;
    Held all;
    std::map<Place, Held> places;
  };
  std::map<const ArenaCore*, Arena> arenas;
  for_each_record([&](const Block& block) {
    if (block.holders.unreferenced() || has_parts(block)) return;  // else its parts are what is held
    HeapCore* const heap = block.heap.load(std::memory_order_relaxed);
    const auto arena = heap != nullptr ? heap->arena_if_any() : nullptr;
    if (arena == nullptr) return;
    Arena& found = arenas[arena.get()];
    if (found.name.empty())
      found.name = "an arena of " + std::to_string(arena->store().capacity()) + " bytes on " +
                   std::string(arena->device()->backend->name());
    const auto made_at = block.made_at.load(std::memory_order_relaxed);
    found.all.add(block.capacity);
    found.places[{made_at.file_name(), made_at.line()}].add(block.capacity);
  });
  std::string text;
  for (const auto& [core, arena] : arenas) {
    text += "thole: leaked in " + arena.name + ": " + arena.all.text() + '\n';
    for (const auto& [where, held] : arena.places)
      text += "thole:   made at " + where.first + ':' + std::to_string(where.second) + ": " + held.text() + '\n';
  }
  return text;
}

}  // namespace thole::inline v0_1::detail
