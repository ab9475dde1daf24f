#include "backend/simulated/device_memory.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "base/bytes.hpp"

namespace thole::inline v0_1::detail::simulated {

namespace {

/// Pages that two mappings share: the first can be neither read nor written.
DevicePiece map_twice(std::size_t bytes) noexcept {
  const int file = memfd_create("simulated device memory", MFD_CLOEXEC);
  if (file < 0) return {};
  void* address = MAP_FAILED;
  void* view = MAP_FAILED;
  if (ftruncate(file, static_cast<off_t>(bytes)) == 0) {
    address = mmap(nullptr, bytes, PROT_NONE, MAP_SHARED | MAP_NORESERVE, file, 0);
    if (address != MAP_FAILED) view = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, 0);
  }
  close(file);
  if (view != MAP_FAILED) {
    madvise(view, bytes, MADV_DONTFORK);  // a forked child has no part in its parent's devices
    return {static_cast<std::byte*>(address), static_cast<std::byte*>(view)};
  }
  if (address != MAP_FAILED) munmap(address, bytes);
  return {};
}

void unmap(const DevicePiece& piece, std::size_t bytes) noexcept {
  munmap(piece.address, bytes);
  munmap(piece.view, bytes);
}

}  // namespace

DeviceMemory::~DeviceMemory() { drop_kept(); }

DevicePiece DeviceMemory::allocate(std::size_t bytes, std::size_t leaving) noexcept {
  const std::size_t in_use = bytes_ - leaving;
  if (bytes == 0 || in_use > capacity_ || bytes > capacity_ - in_use) return {};
  const std::size_t pages = whole_pages(bytes);
  DevicePiece piece;
  if (const auto same = kept_.find(pages); same != kept_.end()) {
    piece = same->second;
    kept_.erase(same);
    kept_bytes_ -= pages;
  } else {
    if (pages < bytes) return {};
    if (kept_bytes_ > 0 && kept_bytes_ + bytes > capacity_ - in_use) drop_kept();
    piece = map_twice(pages);
  }
  if (piece.address != nullptr) bytes_ += bytes;
  return piece;
}

void DeviceMemory::free(const DevicePiece& piece, std::size_t bytes) noexcept {
  const std::size_t pages = whole_pages(bytes);
  bytes_ -= bytes;
  if (pages > most_kept - kept_bytes_ || kept_.size() == most_kept_pieces) return unmap(piece, pages);
  std::memset(piece.view, poison, pages);
  try {
    kept_.emplace(pages, piece);
    kept_bytes_ += pages;
  } catch (...) {
    unmap(piece, pages);
  }
}

DeviceView::DeviceView(std::byte* place, std::size_t bytes, bool writable) noexcept {
  std::byte* const first = align_down(place, page);
  const std::size_t pages = whole_pages(static_cast<std::size_t>(place - first) + bytes);
  void* const mapped = mmap(nullptr, pages + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) return;
  mapped_ = static_cast<std::byte*>(mapped);
  mapped_bytes_ = pages + 2 * page;
  // From 0 bytes of a shared mapping a second one of the same pages is made.
  void* const again = mremap(first, 0, pages, MREMAP_MAYMOVE | MREMAP_FIXED, mapped_ + page);
  if (again == MAP_FAILED) return;
  if (!writable) mprotect(again, pages, PROT_READ);
  data_ = static_cast<std::byte*>(again) + (place - first);
}

DeviceView::~DeviceView() {
  if (mapped_ != nullptr) munmap(mapped_, mapped_bytes_);
}

void DeviceMemory::drop_kept() noexcept {
  for (const auto& [pages, piece] : kept_) unmap(piece, pages);
  kept_.clear();
  kept_bytes_ = 0;
}

}  // namespace thole::inline v0_1::detail::simulated
