#pragma once

// Defined in: use_on.cpp

// One piece of memory that a piece of work uses, as the untyped half of <thole/use_on.hpp> takes it.

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <thole/buffer.hpp>
#include <thole/device_buffer.hpp>

namespace thole::inline v0_1::detail {

struct ListedUse {
  BlockHead* block = nullptr;  // pinned memory, or
  DeviceBlock* device_block =
      nullptr;                 // memory of a DeviceBuffer, or neither: nothing, or memory that thole does not know
  const void* data = nullptr;  // the listed part of it, and
  std::size_t bytes = 0;
  const void* device = nullptr;  // of device memory that is not empty: the identity of its device
  std::uint32_t generation = 0;  // of device_block
  bool writes = false;
  bool moved_from = false;
  bool kept = false;  // by a UseList
};

/// What reads() and writes() return: the use, and the pointer that the function gets.
template <class Pointer>
struct [[nodiscard]] Listed {
  ListedUse use;
  Pointer pointer;
};

template <class T>
inline constexpr bool is_listed = false;
template <class Pointer>
inline constexpr bool is_listed<Listed<Pointer>> = true;

/// The door into the handles that can be listed.
struct ListAccess {
  template <class Element, class T>
  static Listed<Element*> pinned(const PinnedBuffer<T>& buffer) noexcept {
    Element* const data = buffer.span_.data();
    return {{.block = buffer.block_,
             .data = data,
             .bytes = buffer.size_bytes(),
             .writes = !std::is_const_v<Element>,
             .moved_from = !buffer.valid_},
            data};
  }
  template <class Element, class T>
  static Listed<Element*> device(const DeviceBuffer<T>& buffer) noexcept {
    if (buffer.block_ == nullptr) return {{.writes = !std::is_const_v<Element>, .moved_from = !buffer.valid_}, nullptr};
    return span<Element>(DeviceSpan<T>(buffer.data(), buffer.size(), buffer.block_));
  }
  template <class Element, class T>
  static Listed<Element*> span(DeviceSpan<T> span) noexcept {
    return {{.device_block = span.empty() ? nullptr : span.block_,
             .data = span.data_,
             .bytes = span.size_bytes(),
             .device = span.empty() ? nullptr : span.device_,
             .generation = span.generation_,
             .writes = !std::is_const_v<Element>},
            span.data_};
  }
};

/// Runs `run(context, stream)` as one use of all that is listed, in the stream. `call` names who asks. Before that it
/// sets `places`, if that is given, to where the device finds each. Throws only what `run` throws; the use is recorded
/// then, too.
THOLE_EXPORT Result<void> run_uses(const StreamRef& stream, const ListedUse* listed, std::size_t count,
                                   const char* call, void (*run)(void* context, NativeStream stream), void* context,
                                   const void** places = nullptr);
/// Whoever lists keeps the memory from now on. False: the DeviceBuffer is gone, and nothing is kept.
THOLE_EXPORT bool keep_listed(const ListedUse& use) noexcept;
/// Lets go of what keep_listed() kept.
THOLE_EXPORT void let_go_of_listed(const ListedUse& use) noexcept;

}  // namespace thole::inline v0_1::detail
