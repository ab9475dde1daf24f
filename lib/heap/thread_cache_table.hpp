#pragma once

// Each thread's table of its caches, one for each heap that it has used. When the thread ends, its caches are
// abandoned: emptied and left for another thread to adopt. After that (in destructors that run even later) the thread
// has none.

#include <cstdint>

#include "streams/timeline.hpp"

namespace thole::inline v0_1::detail {

class ThreadCache;

/// All of it is about the calling thread.
struct ThreadCacheTable {
  /// What is done to a cache when the thread ends.
  using Abandon = void (*)(ThreadCache*) noexcept;

  /// The thread's cache of the heap with this index, or nullptr.
  static ThreadCache* find(std::uint32_t index) noexcept {
    return index < table_.size ? table_.entries[index].cache : nullptr;
  }
  /// Makes room for a cache of that heap. False when there is no memory, or when the thread is ending.
  static bool prepare(std::uint32_t index) noexcept;
  /// After prepare(): find() gives this cache from now on.
  static void set(std::uint32_t index, ThreadCache* cache, Abandon abandon) noexcept;

  /// In a forked child: forgets the caches, which are the parent's.
  static void forget() noexcept;

 private:
  friend struct AbandonCaches;
  struct Entry {
    ThreadCache* cache;
    Abandon abandon;
  };
  struct Table {
    Entry* entries = nullptr;
    std::uint32_t size = 0;
    bool ended = false;
  };
  static void end_thread() noexcept;
  // Trivially destructible, so that it can be asked at any time.
  static constinit thread_local Table table_;
};

}  // namespace thole::inline v0_1::detail
