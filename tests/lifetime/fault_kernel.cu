#include "fault_kernel.hpp"

namespace {

__global__ void write_to(int* address) { *address = 1; }

}  // namespace

bool launch_fault(CUstream_st* stream) {
  write_to<<<1, 1, 0, stream>>>(nullptr);
  return cudaGetLastError() == cudaSuccess;
}
