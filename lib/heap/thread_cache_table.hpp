#pragma once

// Each thread's table of its caches, by heap, and what happens to them when the thread ends: the caches are emptied and
// left for another thread to adopt. After that (in destructors that run even later) the thread does without.

#include <cstdint>

namespace thole::detail {

class ThreadCache;
struct HeapCore;

struct ThreadCacheTable {
  /// The thread's cache of the heap with this index, or nullptr.
  static ThreadCache* find(std::uint32_t index) noexcept {
    return index < table_.size ? table_.entries[index].cache : nullptr;
  }
  /// Makes room for a cache of that heap. False when there is no memory, or when the thread is ending.
  static bool prepare(std::uint32_t index) noexcept;
  static void set(std::uint32_t index, HeapCore* heap, ThreadCache* cache) noexcept;

 private:
  friend struct AbandonCaches;
  struct Entry {
    HeapCore* heap;
    ThreadCache* cache;
  };
  struct Table {
    Entry* entries = nullptr;
    std::uint32_t size = 0;
    bool ended = false;
  };
  static void leave() noexcept;
  // Trivially destructible, so that it can be asked at any time. Initial-exec: one instruction instead of a call.
  [[gnu::tls_model("initial-exec")]] static constinit thread_local Table table_;
};

}  // namespace thole::detail
