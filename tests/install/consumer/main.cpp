// A program that uses thole and looks at what that changed in its process: malloc, free and operator new must be where
// they would be without it, whatever mimalloc the distribution ships.

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <thole/thole.hpp>

namespace {

// The file that the dynamic linker takes the symbol from, for everybody in this process; empty: from none.
std::string_view owner(const char* symbol) {
  void* const address = dlsym(RTLD_DEFAULT, symbol);
  Dl_info info{};
  if (address == nullptr || dladdr(address, &info) == 0) return {};
  const std::string_view path = info.dli_fname;
  return path.substr(path.rfind('/') + 1);
}

// `also_own`: or from the program itself, where the toolchain links the library statically.
bool comes_from(const char* symbol, std::string_view wanted, bool also_own = false) {
  const std::string_view found = owner(symbol);
  std::printf("%s is %.*s's\n", symbol, static_cast<int>(found.size()), found.data());
  return found.starts_with(wanted) || (also_own && found.find(".so") == std::string_view::npos);
}

bool nothing_changed() {
  bool good = true;
  for (const char* symbol : {"malloc", "free", "calloc", "realloc", "aligned_alloc"})
    good = comes_from(symbol, "libc.so") && good;
  for (const char* symbol : {"_Znwm", "_Znam", "_ZdlPv", "_ZdaPv"})  // operator new, new[], delete, delete[]
    good = comes_from(symbol, "libstdc++.so", true) && good;
  if (!owner("mi_malloc").empty()) {
    std::puts("mimalloc's own functions are visible to the program");
    good = false;
  }
  return good;
}

}  // namespace

int main() try {
  const bool before = nothing_changed();
  const auto device = thole::Device::simulated();
  const auto heap = thole::PinnedHeap(thole::PinnedArena(device, {.bytes = std::size_t{64} << 20}));
  const auto stream = thole::Stream(device);
  const auto there = heap.make_buffer<int>(1000, 42).async_to_device(stream);
  const auto back = there.async_to_host(stream, heap);
  int sum = 0;
  for (const int value : back.borrow()) sum += value;
  std::printf("thole %s: 1000 numbers there and back, sum %d\n", thole::config::version, sum);
  return before && nothing_changed() && sum == 42000 ? EXIT_SUCCESS : EXIT_FAILURE;
} catch (const thole::Error& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return EXIT_FAILURE;
}
