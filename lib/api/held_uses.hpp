#pragma once

// The memory that one piece of work uses, held while the work is submitted, so that no other call submits what would
// have to be ordered with it, and the program's function may do with its buffers what it likes: pinned memory by
// borrows of the use's kind, device memory by what streams/submitting.hpp says.

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

#include <thole/buffer.hpp>
#include <thole/device_buffer.hpp>

#include "api/block_rules.hpp"
#include "base/spin_lock.hpp"
#include "streams/used.hpp"

namespace thole::inline v0_1::detail {

/// A call that holds device memory, among those of its thread, one in the function of the other. Where two calls
/// conflict the later one waits for the other's end, which is near, unless that cannot be waited for.
class HoldingCall {
 public:
  HoldingCall() noexcept;
  HoldingCall(const HoldingCall&) = delete;
  HoldingCall& operator=(const HoldingCall&) = delete;

 protected:
  ~HoldingCall();
  virtual bool holds(const DeviceBlock& block) const noexcept = 0;
  /// Whether it makes sense to wait for who keeps the caller from the block. `own_functions`: Submitting says what that
  /// is.
  bool may_wait_for(const DeviceBlock& block, std::uint64_t own_functions = 0) const noexcept;

 private:
  const HoldingCall* const outer_;
};

/// The Error of a call that another one forbids.
Error submitting_error(const char* call, bool writes);

/// One piece of device memory, for a call that runs no function; nullptr: none.
class HeldDeviceUse final : HoldingCall {
 public:
  HeldDeviceUse(DeviceBlock* block, bool writes) noexcept;
  ~HeldDeviceUse();
  /// False: another call forbids it.
  explicit operator bool() const noexcept { return held_ || block_ == nullptr; }

 private:
  bool holds(const DeviceBlock& block) const noexcept override { return held_ && &block == block_; }

  DeviceBlock* const block_;
  const bool writes_;
  bool held_ = false;
};

/// What is held goes with this object.
class HeldUses final : HoldingCall {
 public:
  enum class Hold {
    taken,
    busy,     ///< another call has it for a moment: let_go_of_all(), and try all again
    refused,  ///< another call forbids it
  };

  /// Whether the call runs a function of the program's while it holds.
  explicit HeldUses(bool runs_function) noexcept : runs_function_(runs_function) {}
  ~HeldUses();

  /// For so many, before the first is held. False: the system has no memory.
  bool make_room(std::size_t count) noexcept {
    if (count <= few_.size()) return true;
    many_.reset(new (std::nothrow) Used[count]);
    used_ = many_.get();
    return many_ != nullptr;
  }
  /// Takes the borrow of pinned memory. False: another one forbids it.
  bool hold(Block& block, bool writes) noexcept {
    if (!begin(block, writes)) return false;
    used_[count_++] = {&block, nullptr, writes};
    bytes_ += block.capacity;
    return true;
  }
  /// The caller keeps the memory, and leaves that to this object, whatever comes back.
  Hold hold(DeviceBlock& block, bool writes) noexcept;
  void let_go_of_all() noexcept;
  /// Calls `hold_all()`, which holds one after the other, until nothing is busy: who waits holds nothing.
  template <class HoldAll>
  Result<void> hold_patiently(HoldAll&& hold_all) noexcept {
    for (int tries = 0;; ++tries) {
      const Result<Hold> all = hold_all();
      if (!all) return tl::unexpected(all.error());
      if (*all != Hold::busy) return {};
      let_go_of_all();
      pause_before_try(tries);
    }
  }

  Used* data() noexcept { return used_; }
  std::size_t size() const noexcept { return count_; }
  /// Of pinned memory.
  std::size_t bytes() const noexcept { return bytes_; }

 private:
  bool holds(const DeviceBlock& block) const noexcept override;
  void let_go(const Used& used) const noexcept;

  const bool runs_function_;
  std::array<Used, 8> few_;
  std::unique_ptr<Used[]> many_;
  Used* used_ = few_.data();
  std::size_t count_ = 0;
  std::size_t bytes_ = 0;
};

}  // namespace thole::inline v0_1::detail
