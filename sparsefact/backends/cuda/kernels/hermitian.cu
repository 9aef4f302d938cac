// Make a matrix exactly Hermitian from its lower triangle, in place: tiles of 32 x 32 through shared memory.
#include "scalar.cuh"

template <class T>
__device__ void mirror(T* a, long long p) {
  __shared__ T tile[32][33];
  const long long across = (p + 31) / 32, low = blockIdx.x / across, high = blockIdx.x % across;
  if (high > low) return;
  const int lane = threadIdx.x & 31;
  for (int line = threadIdx.x >> 5; line < 32; line += blockDim.x >> 5) {
    const long long i = 32 * low + line, j = 32 * high + lane;
    if (i < p && j < p) tile[line][lane] = a[i * p + j];
  }
  __syncthreads();
  for (int line = threadIdx.x >> 5; line < 32; line += blockDim.x >> 5) {
    const long long i = 32 * high + line, j = 32 * low + lane;
    if (i >= p || j >= p || j < i) continue;
    const T below = tile[lane][line];
    a[i * p + j] = i == j ? from_real<T>(real_part(below)) : conjugate(below);
  }
}

#define ENTRIES(T, S) \
  KERNEL(256) mirror_##S(T* a, long long p) { mirror(a, p); }
FOR_ALL(ENTRIES)
