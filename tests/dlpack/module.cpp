// What an extension of Python shows of thole's memory: tensors, for numpy.py beside it.

#include <array>
#include <cstddef>
#include <cstdint>

#include <thole/dlpack.hpp>
#include <thole/thole.hpp>

namespace {

const thole::PinnedHeap& heap() {
  static const thole::PinnedHeap made(thole::PinnedArena(thole::Device::simulated(), {.bytes = std::size_t{1} << 20}));
  return made;
}

/// Twelve numbers from 0 on, as 3 x 4, of a buffer that is dropped at once.
template <class Managed>
void* make(int device, bool writable) {
  auto buffer = heap().make_buffer<float>(12);
  for (float next = 0; float& element : buffer.borrow_mut()) element = next++;
  const std::array<std::int64_t, 2> shape{3, 4};
  const thole::DlpackOptions options{
      .device = static_cast<thole::DlpackDevice>(device), .shape = shape, .unmarked = true};
  if (writable) return thole::to_dlpack<Managed>(buffer.borrow_mut(), options).release();
  return thole::to_dlpack<Managed>(buffer.borrow(), options).release();
}

}  // namespace

extern "C" {

THOLE_EXPORT void* make_tensor(int device, int versioned, int writable) try {
  return versioned != 0 ? make<thole::dlpack::ManagedTensorVersioned>(device, writable != 0)
                        : make<thole::dlpack::ManagedTensor>(device, writable != 0);
} catch (const thole::Error&) {
  return nullptr;
}
THOLE_EXPORT int is_pinned(const void* data) { return heap().arena().contains(data) ? 1 : 0; }
THOLE_EXPORT std::size_t bytes_in_use() { return heap().stats().in_use; }
}
