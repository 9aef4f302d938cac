// Masks with a pattern: n of every m consecutive entries, and the Frobenius norms of the blocks of a grid.
#include "block.cuh"

// One thread per entry counts those of its group that come before it: larger ones, and equal ones of lower index.
// The members of a group lie `inner` apart: 1 along rows, the number of columns along columns.
template <class R>
__device__ void best_of_groups(const R* x, long long size, long long n, long long m, long long inner, bool* mask) {
  const long long step = (long long)gridDim.x * blockDim.x;
  for (long long e = (long long)blockIdx.x * blockDim.x + threadIdx.x; e < size; e += step) {
    const long long q = e / inner, member = q % m, first = e - member * inner;
    const R mine = extent(x[e]);
    long long before = 0;
    for (long long t = 0; t < m; t++) {
      const R other = extent(x[first + t * inner]);
      if (t < member)
        before += other >= mine || other != other;
      else if (t > member)
        before += other > mine || (other != other && mine == mine);
    }
    mask[e] = before < n;
  }
}

// The largest finite magnitude, as the bits of a double: the maximum does not depend on the order.
template <class R>
__device__ void largest_finite(const R* x, long long size, unsigned long long* bits) {
  const long long step = (long long)gridDim.x * blockDim.x;
  double mine = 0;
  for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < size; i += step) {
    const double here = fabs((double)x[i]);
    if (here - here == 0 && here > mine) mine = here;
  }
  mine = warp_max(mine);
  if ((threadIdx.x & 31) == 0) atomicMax(bits, (unsigned long long)__double_as_longlong(mine));
}

// The sum of squares of every block of rows x cols entries, one thread block each. Magnitudes are scaled by a power of
// two, so that squares neither overflow nor vanish and no rounding is added.
template <class R>
__device__ void block_squares(const R* x, const unsigned long long* bits, long long rows, long long cols,
                              long long across, double* squares) {
  __shared__ double scratch[32];
  int exponent;
  frexp(__longlong_as_double((long long)*bits), &exponent);
  const long long width = cols * across, i = blockIdx.x / across, j = blockIdx.x % across;
  const R* first = x + i * rows * width + j * cols;
  double mine = 0;
  for (long long e = threadIdx.x; e < rows * cols; e += blockDim.x) {
    const double here = ldexp((double)first[e / cols * width + e % cols], -exponent);
    mine += here * here;
  }
  const double total = block_sum(mine, scratch);
  if (threadIdx.x == 0) squares[blockIdx.x] = total;
}

#define ENTRIES(R, S)                                                                                               \
  KERNEL(256) best_of_groups_##S(const R* x, long long size, long long n, long long m, long long inner,             \
                                 bool* mask) {                                                                      \
    best_of_groups(x, size, n, m, inner, mask);                                                                     \
  }                                                                                                                 \
  KERNEL(256) largest_finite_##S(const R* x, long long size, unsigned long long* bits) {                            \
    largest_finite(x, size, bits);                                                                                  \
  }                                                                                                                 \
  KERNEL(256) block_squares_##S(const R* x, const unsigned long long* bits, long long rows, long long cols,         \
                                long long across, double* squares) {                                                \
    block_squares(x, bits, rows, cols, across, squares);                                                            \
  }
FOR_REAL(ENTRIES)
