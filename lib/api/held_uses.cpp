#include "api/held_uses.hpp"

#include <string>

#include "base/host_function.hpp"
#include "base/spin_lock.hpp"

namespace thole::inline v0_1::detail {

namespace {
constinit thread_local const HoldingCall* innermost = nullptr;
}

HoldingCall::HoldingCall() noexcept : outer_(innermost) { innermost = this; }
HoldingCall::~HoldingCall() { innermost = outer_; }

/// Where a function of the program's stands between, its end may be what the caller keeps it from; and what another
/// process had in the middle of a call stays there.
bool HoldingCall::may_wait_for(const DeviceBlock& block, std::uint64_t own_functions) const noexcept {
  if (in_host_function()) return false;  // the other call may wait for what this one holds up
  for (const HoldingCall* call = outer_; call != nullptr; call = call->outer_)
    if (call->holds(block)) return false;
  return !block.submitting.runs_function(own_functions) && !block.core->of_another_process();
}

HeldDeviceUse::HeldDeviceUse(DeviceBlock* block, bool writes) noexcept : block_(block), writes_(writes) {
  for (int tries = 0; block != nullptr; ++tries) {
    held_ = block->submitting.begin(writes, false);
    if (held_ || !may_wait_for(*block)) return;
    pause_before_try(tries);
  }
}

HeldDeviceUse::~HeldDeviceUse() {
  if (held_) block_->submitting.end(writes_, false);
}

HeldUses::~HeldUses() { let_go_of_all(); }

void HeldUses::let_go_of_all() noexcept {
  for (; count_ != 0; --count_) let_go(used_[count_ - 1]);
  bytes_ = 0;
}

HeldUses::Hold HeldUses::hold(DeviceBlock& block, bool writes) noexcept {
  Used& entry = used_[count_++] = {nullptr, &block, writes};
  entry.submitting = block.submitting.begin(writes, runs_function_);
  if (entry.submitting) return Hold::taken;
  // Parts of one buffer may be listed apart. From the end: behind one that writes, each entry of the block stands here
  // uncounted, so that the search is short.
  std::uint64_t own_readers = 0;
  for (const Used* earlier = &entry; earlier != used_;) {
    --earlier;
    if (earlier->device_block != &block) continue;
    if (earlier->writes || !earlier->submitting) return Hold::taken;
    ++own_readers;
  }
  if (writes && own_readers != 0) entry.submitting = block.submitting.begin(true, runs_function_, own_readers);
  if (entry.submitting) return Hold::taken;
  return may_wait_for(block, runs_function_ ? own_readers : 0) ? Hold::busy : Hold::refused;
}

bool HeldUses::holds(const DeviceBlock& block) const noexcept {
  for (std::size_t i = 0; i != count_; ++i)
    if (used_[i].device_block == &block && used_[i].submitting) return true;
  return false;
}

void HeldUses::let_go(const Used& used) const noexcept {
  if (used.device_block != nullptr) {
    if (used.submitting) used.device_block->submitting.end(used.writes, runs_function_);
    drop_device_block(used.device_block);
  } else if (used.writes) {
    end_borrow<true>(used.block);
  } else {
    end_borrow<false>(used.block);
  }
}

Error submitting_error(const char* call, bool writes) {
  return Error::make(Errc::borrowed, [&] {
    return std::string(call) + ": the device memory that this call " + (writes ? "writes" : "reads") +
           " is in use by another one that is under way, and whose function is running: there would be no order "
           "between the two";
  });
}

}  // namespace thole::inline v0_1::detail
