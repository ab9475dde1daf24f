#pragma once

// Streams, events and graphs that nobody uses any more. Destroying one may wait as long as any stream's queue is full
// (CUDA holds a lock meanwhile), and is not allowed in host functions. So whoever drops one leaves it here, and a
// thread of the library's own destroys it (tidy_up() in streams/watcher.hpp).

#include <mutex>
#include <vector>

#include "backend/backend.hpp"

namespace thole::inline v0_1::detail {

/// Thread safety: any thread, at any time.
class Leftovers {
 public:
  enum class Kind { stream, event, graph, graph_exec };
  struct Item {
    Kind kind;
    void* handle;
  };

  explicit Leftovers(DeviceBackend& backend) noexcept : backend_(backend) {}
  /// Destroys what is left.
  ~Leftovers();
  Leftovers(const Leftovers&) = delete;
  Leftovers& operator=(const Leftovers&) = delete;

  /// Where the system has no memory to note it, it is destroyed at once, or stays, in a host function.
  void add(Kind kind, void* handle) noexcept;
  /// Nothing is left, and nothing just being destroyed.
  bool empty() const noexcept;
  /// What there is; the caller destroys it, and says with done() when that is done. One caller at a time.
  std::vector<Item> take_all() noexcept;
  void done() noexcept;
  /// May block.
  Status destroy(const Item& item) noexcept;

 private:
  DeviceBackend& backend_;
  mutable std::mutex mutex_;
  std::vector<Item> items_;
  bool destroying_ = false;
};

}  // namespace thole::inline v0_1::detail
