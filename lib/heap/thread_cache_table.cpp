#include "heap/thread_cache_table.hpp"

#include <pthread.h>

#include <algorithm>
#include <cstdlib>

namespace thole::inline v0_1::detail {

constinit thread_local ThreadCacheTable::Table ThreadCacheTable::table_{};

struct AbandonCaches {
  bool armed = false;
  ~AbandonCaches() { ThreadCacheTable::end_thread(); }
};

namespace {

thread_local AbandonCaches abandon_caches_;

// The handler runs on the child's only thread. Other threads' tables are gone with their threads.
[[gnu::constructor]] void register_fork_handler() {
  (void)pthread_atfork(nullptr, nullptr, [] { ThreadCacheTable::forget(); });
}

}  // namespace

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

void ThreadCacheTable::set(std::uint32_t index, ThreadCache* cache, Abandon abandon) noexcept {
  table_.entries[index] = {cache, abandon};
}

void ThreadCacheTable::forget() noexcept { table_.size = 0; }

void ThreadCacheTable::end_thread() noexcept {
  table_.ended = true;
  for (std::uint32_t i = 0; i != table_.size; ++i)
    if (const Entry& entry = table_.entries[i]; entry.cache != nullptr) entry.abandon(entry.cache);
  table_.size = 0;
  std::free(table_.entries);
  table_.entries = nullptr;
}

}  // namespace thole::inline v0_1::detail
