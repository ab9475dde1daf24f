#include "thread_caches.hpp"

#include <algorithm>
#include <cstdlib>

#include "heap_core.hpp"

namespace thole::detail {

constinit thread_local ThreadCaches::Table ThreadCaches::table_{};

struct LeaveCaches {
  bool armed = false;
  ~LeaveCaches() { ThreadCaches::leave(); }
};

namespace {
thread_local LeaveCaches leave_caches_;
}

bool ThreadCaches::prepare(std::uint32_t index) noexcept {
  if (table_.ended) return false;
  leave_caches_.armed = true;  // a first touch has the destructor called when the thread ends
  if (index < table_.size) return true;
  const std::uint32_t size = std::max(index + 1, table_.size * 2);
  auto* const entries = static_cast<Entry*>(std::realloc(table_.entries, size * sizeof(Entry)));
  if (entries == nullptr) return false;
  std::fill(entries + table_.size, entries + size, Entry{});
  table_.entries = entries;
  table_.size = size;
  return true;
}

void ThreadCaches::set(std::uint32_t index, HeapCore* heap, Cache* cache) noexcept {
  table_.entries[index] = {heap, cache};
}

void ThreadCaches::leave() noexcept {
  table_.ended = true;
  for (std::uint32_t i = 0; i != table_.size; ++i)
    if (table_.entries[i].cache != nullptr) table_.entries[i].heap->leave_cache(table_.entries[i].cache);
  table_.size = 0;
  std::free(table_.entries);
  table_.entries = nullptr;
}

}  // namespace thole::detail
