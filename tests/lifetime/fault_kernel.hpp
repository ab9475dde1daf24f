#pragma once

struct CUstream_st;

/// Enqueues a kernel that writes where it must not, which ends the device for this process. False when the launch
/// failed.
bool launch_fault(CUstream_st* stream);
