#include "raw_mimalloc.hpp"

#include <dlfcn.h>
#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <thole/config.hpp>

namespace bench {

// Declared here and not taken from mimalloc.h, whose types differ by version: an arena's name is an int in 2.x and a
// pointer in 3.x, and either fits a register.
std::unique_ptr<RawMimalloc> RawMimalloc::make() {
#ifdef THOLE_MIMALLOC_SONAME
  void* const library = dlopen(THOLE_MIMALLOC_SONAME, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return nullptr;
  const auto find = [library](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
    return function != nullptr;
  };
  bool (*manage)(void*, std::size_t, bool, bool, bool, int, bool, std::intptr_t*) = nullptr;
  void* (*new_in_arena)(std::intptr_t) = nullptr;
  auto raw = std::make_unique<RawMimalloc>();
  if (!find(manage, "mi_manage_os_memory_ex") || !find(new_in_arena, "mi_heap_new_in_arena") ||
      !find(raw->malloc_aligned_, "mi_heap_malloc_aligned") || !find(raw->free_, "mi_free"))
    return nullptr;
  // Twice the alignment that any region needs, so that an aligned one lies inside. It is never unmapped: mimalloc knows
  // it.
  constexpr std::size_t bytes = thole::config::region_alignment > (std::size_t{64} << 20)
                                    ? thole::config::region_alignment
                                    : std::size_t{64} << 20;
  void* const mapped = mmap(nullptr, 2 * bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  const auto address = (reinterpret_cast<std::uintptr_t>(mapped) + bytes - 1) & ~(bytes - 1);
  auto* const start = reinterpret_cast<void*>(address);
  std::memset(start, 0, bytes);
  std::intptr_t arena = 0;
  if (!manage(start, bytes, true, true, true, -1, true, &arena)) return nullptr;
  raw->heap_ = new_in_arena(arena);
  if (raw->heap_ == nullptr) return nullptr;
  void* const probe = raw->allocate(65536);
  if (probe == nullptr) return nullptr;
  raw->free(probe);
  return raw;
#else
  return nullptr;
#endif
}

}  // namespace bench
