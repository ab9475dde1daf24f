// Counts what a thread allocates, for rules that say "allocates nothing", and lets it fail.

#include "allocations.hpp"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <utility>

#include "sanitized.hpp"

namespace {
constinit thread_local std::size_t count = 0;
constinit thread_local bool no_memory = false;
constinit thread_local std::size_t left = 0;  // of those that do not fail
constinit thread_local const std::function<void()>* before_each = nullptr;
constinit std::atomic<std::size_t> live{0};  // relaxed: a count

[[maybe_unused]] void discounted(void* data) noexcept {
  if (data != nullptr) live.fetch_sub(1, std::memory_order_relaxed);
  std::free(data);
}

[[maybe_unused]] void* counted(std::size_t bytes, std::size_t alignment = alignof(std::max_align_t)) {
  ++count;
  if (const auto* const run = std::exchange(before_each, nullptr)) {
    (*run)();
    before_each = run;
  }
  const bool too_large = bytes > PTRDIFF_MAX;
  if (!too_large && (!no_memory || (left != 0 && left-- != 0)))
    // A multiple of the alignment, as C11 wants it.
    if (void* const made =
            std::aligned_alloc(alignment, (std::max(bytes, std::size_t{1}) + alignment - 1) / alignment * alignment)) {
      live.fetch_add(1, std::memory_order_relaxed);
      return made;
    }
  throw std::bad_alloc();
}
}  // namespace

namespace support {
std::size_t allocations() noexcept { return count; }
std::size_t live_allocations() noexcept { return live.load(std::memory_order_relaxed); }
NoMemory::NoMemory(std::size_t but_for) noexcept {
  no_memory = true;
  left = but_for;
}
NoMemory::~NoMemory() { no_memory = false; }
OnAllocation::OnAllocation(std::function<void()> run) noexcept : run_(std::move(run)) { before_each = &run_; }
OnAllocation::~OnAllocation() { before_each = nullptr; }
}  // namespace support

// A sanitizer has operators of its own, and the plain builds count: there the count stays 0.
#if !THOLE_TEST_SANITIZED
void* operator new(std::size_t bytes) { return counted(bytes); }
void* operator new[](std::size_t bytes) { return counted(bytes); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return counted(bytes, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t bytes, std::align_val_t alignment) {
  return counted(bytes, static_cast<std::size_t>(alignment));
}
void operator delete(void* data) noexcept { discounted(data); }
void operator delete[](void* data) noexcept { discounted(data); }
void operator delete(void* data, std::size_t) noexcept { discounted(data); }
void operator delete[](void* data, std::size_t) noexcept { discounted(data); }
void operator delete(void* data, std::align_val_t) noexcept { discounted(data); }
void operator delete[](void* data, std::align_val_t) noexcept { discounted(data); }
void operator delete(void* data, std::size_t, std::align_val_t) noexcept { discounted(data); }
void operator delete[](void* data, std::size_t, std::align_val_t) noexcept { discounted(data); }
#endif
