#pragma once

struct CUstream_st;

namespace bench {

/// Keeps the stream busy for so long. False when the launch failed.
bool launch_spin(CUstream_st* stream, unsigned milliseconds);

}  // namespace bench
