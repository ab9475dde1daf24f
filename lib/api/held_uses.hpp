#pragma once

// The memory that one piece of work uses, held while the work is submitted: pinned memory by borrows of the use's kind,
// so that the program's function may do with its buffers what it likes.

#include <array>
#include <cstddef>
#include <memory>
#include <new>

#include <thole/buffer.hpp>
#include <thole/device_buffer.hpp>

#include "api/block_rules.hpp"
#include "streams/used.hpp"

namespace thole::inline v0_1::detail {

/// What is held goes with this object.
class HeldUses {
 public:
  HeldUses() = default;
  ~HeldUses() {
    for (; count_ != 0; --count_) let_go(used_[count_ - 1]);
  }
  HeldUses(const HeldUses&) = delete;
  HeldUses& operator=(const HeldUses&) = delete;

  /// For so many, before the first is held. False: the system has no memory.
  bool make_room(std::size_t count) noexcept {
    if (count <= few_.size()) return true;
    many_.reset(new (std::nothrow) Used[count]);
    used_ = many_.get();
    return many_ != nullptr;
  }
  /// Takes the borrow. False: another one forbids it.
  bool hold(Block& block, bool writes) noexcept {
    if (!begin(block, writes)) return false;
    used_[count_++] = {&block, nullptr, writes};
    bytes_ += block.capacity;
    return true;
  }
  /// The caller has held it, and leaves it to this object.
  void take(DeviceBlock& block, bool writes) noexcept { used_[count_++] = {nullptr, &block, writes}; }

  Used* data() noexcept { return used_; }
  std::size_t size() const noexcept { return count_; }
  /// Of pinned memory.
  std::size_t bytes() const noexcept { return bytes_; }

 private:
  static void let_go(const Used& used) noexcept {
    if (used.device_block != nullptr)
      drop_device_block(used.device_block);
    else if (used.writes)
      end_borrow<true>(used.block);
    else
      end_borrow<false>(used.block);
  }

  std::array<Used, 8> few_;
  std::unique_ptr<Used[]> many_;
  Used* used_ = few_.data();
  std::size_t count_ = 0;
  std::size_t bytes_ = 0;
};

}  // namespace thole::inline v0_1::detail
