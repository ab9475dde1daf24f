#include "spin_kernel.hpp"

namespace {

__global__ void spin(unsigned long long nanoseconds) {
  unsigned long long began, now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(began));
  do asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  while (now - began < nanoseconds);
}

}  // namespace

namespace bench {

bool launch_spin(CUstream_st* stream, unsigned milliseconds) {
  spin<<<1, 1, 0, stream>>>(milliseconds * 1000000ULL);
  return cudaGetLastError() == cudaSuccess;
}

}  // namespace bench
