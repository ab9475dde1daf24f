#pragma once

struct CUstream_st;

namespace bench {

/// Keeps the stream busy for so long. False when the launch failed.
bool launch_spin(CUstream_st* stream, unsigned milliseconds);
/// Keeps the stream busy until end_wait(); one at a time. False when the launch failed.
bool launch_wait(CUstream_st* stream);
void end_wait();

}  // namespace bench
