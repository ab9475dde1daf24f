#pragma once

#include <cstddef>
#include <memory>

namespace bench {

/// mimalloc itself, in an exclusive arena of plain memory: what thole is measured against. Belongs to the thread that
/// made it.
class RawMimalloc {
 public:
  /// nullptr where the installed library cannot be reached, or does not serve.
  static std::unique_ptr<RawMimalloc> make();
  void* allocate(std::size_t bytes) const { return malloc_aligned_(heap_, bytes, 64); }
  void free(void* data) const { free_(data); }

 private:
  void* heap_ = nullptr;
  void* (*malloc_aligned_)(void*, std::size_t, std::size_t) = nullptr;
  void (*free_)(void*) = nullptr;
};

}  // namespace bench
