// Sums, maxima and ranks over the threads of a warp or a block, always in the same order.
#ifndef SPARSEFACT_BLOCK_CUH
#define SPARSEFACT_BLOCK_CUH

#include "scalar.cuh"

#define ALL_LANES 0xffffffffu

template <class R>
__device__ __forceinline__ R warp_sum(R x) {
  for (int step = 16; step > 0; step >>= 1) x += __shfl_xor_sync(ALL_LANES, x, step);
  return x;
}
template <class R>
__device__ __forceinline__ Complex<R> warp_sum(Complex<R> x) {
  return {warp_sum(x.re), warp_sum(x.im)};
}
template <class R>
__device__ __forceinline__ R warp_max(R x) {
  for (int step = 16; step > 0; step >>= 1) {
    const R other = __shfl_xor_sync(ALL_LANES, x, step);
    x = other > x ? other : x;
  }
  return x;
}

// The sum over a block of whole warps; `scratch` holds 32 numbers. Every thread gets it.
template <class R>
__device__ __forceinline__ R block_sum(R x, R* scratch) {
  x = warp_sum(x);
  __syncthreads();
  if ((threadIdx.x & 31) == 0) scratch[threadIdx.x >> 5] = x;
  __syncthreads();
  R total = scratch[0];
  for (unsigned w = 1; w < blockDim.x >> 5; w++) total += scratch[w];
  return total;
}

template <class R>
__device__ __forceinline__ R block_max(R x, R* scratch) {
  x = warp_max(x);
  __syncthreads();
  if ((threadIdx.x & 31) == 0) scratch[threadIdx.x >> 5] = x;
  __syncthreads();
  R largest = scratch[0];
  for (unsigned w = 1; w < blockDim.x >> 5; w++) largest = scratch[w] > largest ? scratch[w] : largest;
  return largest;
}

// The sum of `x` over the threads before this one; `total` receives the sum over all. `scratch` holds 32 numbers.
__device__ __forceinline__ unsigned long long block_before(unsigned long long x, unsigned long long* scratch,
                                                           unsigned long long* total) {
  const unsigned lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  unsigned long long until = x;
  for (unsigned step = 1; step < 32; step <<= 1) {
    const unsigned long long other = __shfl_up_sync(ALL_LANES, until, step);
    if (lane >= step) until += other;
  }
  __syncthreads();
  if (lane == 31) scratch[warp] = until;
  __syncthreads();
  unsigned long long before = 0, sum = 0;
  for (unsigned w = 0; w < blockDim.x >> 5; w++) {
    if (w < warp) before += scratch[w];
    sum += scratch[w];
  }
  *total = sum;
  return before + until - x;
}

// How many threads before this one raise the flag, and in `total` how many do at all. `scratch` holds 32 numbers.
__device__ __forceinline__ unsigned flags_before(bool flag, unsigned* scratch, unsigned* total) {
  const unsigned lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const unsigned raised = __ballot_sync(ALL_LANES, flag);
  __syncthreads();
  if (lane == 0) scratch[warp] = __popc(raised);
  __syncthreads();
  unsigned before = __popc(raised & ((1u << lane) - 1u)), sum = 0;
  for (unsigned w = 0; w < blockDim.x >> 5; w++) {
    if (w < warp) before += scratch[w];
    sum += scratch[w];
  }
  *total = sum;
  return before;
}

#endif
