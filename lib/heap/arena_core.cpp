#include "heap/arena_core.hpp"

#include <string>

namespace thole::detail {

void ArenaCore::add(HeapCore* heap) {
  const std::scoped_lock lock(mutex_);
  heaps_.push_back(heap);
}

void ArenaCore::remove(HeapCore* heap, std::size_t made) noexcept {
  const std::scoped_lock lock(mutex_);
  std::erase(heaps_, heap);
  made_by_ended_heaps_ += made;
}

Error of_another_process_error(const char* call) {
  return Error::make(Errc::device_lost,
                     [&] { return std::string(call) + ": made by another process, which this one was forked from"; });
}

}  // namespace thole::detail
