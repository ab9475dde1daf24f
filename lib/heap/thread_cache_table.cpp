#include "heap/thread_cache_table.hpp"

#include <algorithm>
#include <cstdlib>

#include "heap/heap_core.hpp"

namespace thole::detail {

constinit thread_local ThreadCacheTable::Table ThreadCacheTable::table_{};

struct AbandonCaches {
  bool armed = false;
  ~AbandonCaches() { ThreadCacheTable::leave(); }
};

namespace {
thread_local AbandonCaches abandon_caches_;
}

bool ThreadCacheTable::prepare(std::uint32_t index) noexcept {
  if (table_.ended) return false;
  abandon_caches_.armed = true;  // a first touch has the destructor called when the thread ends
  if (index < table_.size) return true;
  const std::uint32_t size = std::max(index + 1, table_.size * 2);
  auto* const entries = static_cast<Entry*>(std::realloc(table_.entries, size * sizeof(Entry)));
  if (entries == nullptr) return false;
  std::fill(entries + table_.size, entries + size, Entry{});
  table_.entries = entries;
  table_.size = size;
  return true;
}

void ThreadCacheTable::set(std::uint32_t index, HeapCore* heap, ThreadCache* cache) noexcept {
  table_.entries[index] = {heap, cache};
}

void ThreadCacheTable::leave() noexcept {
  table_.ended = true;
  for (std::uint32_t i = 0; i != table_.size; ++i)
    if (table_.entries[i].cache != nullptr) table_.entries[i].heap->abandon_cache(table_.entries[i].cache);
  table_.size = 0;
  std::free(table_.entries);
  table_.entries = nullptr;
}

}  // namespace thole::detail
