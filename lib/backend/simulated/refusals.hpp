#pragma once

// Why the simulated device refuses a call: its counterpart of cudaError_t, and the native number in its Statuses.

#include <string_view>

#include "backend/backend.hpp"

namespace thole::inline v0_1::detail::simulated {

enum class Refusal : int {
  none,
  not_ready,
  out_of_memory,
  pinned_limit,
  invalid_value,
  invalid_handle,
  two_registrations,
  read_only,
  not_device_memory,
  already_registered,
  not_registered,
  capture_unsupported,
  capture_invalidated,
  capture_merge,
  capture_isolation,
  capture_unjoined,
  capture_unmatched,
  capture_wrong_thread,
  capture_implicit,
  captured_event,
  illegal_state,
  not_permitted,
  another_device,
  lost,
  another_process,
  requested,
};

/// The Status that a call returns when it refuses for this reason.
Status refuse(Refusal why) noexcept;
/// "name: text" of the Status's native number.
std::string_view refusal_text(int native) noexcept;

}  // namespace thole::inline v0_1::detail::simulated
