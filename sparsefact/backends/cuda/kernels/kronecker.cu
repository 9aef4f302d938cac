// One Kronecker-sparse factor of large blocks, and the gradient of a factor. Matrices lie row by row, columns together.
#include "block.cuh"
#include "pack.cuh"

#define ROWS 32
#define DEPTH 16

// y[(i b + p) d + q] = sum_r w[i, q, r, p] x[(i c + r) d + q]: a product of 32 rows with 32 times 16 bytes of columns per
// block, 16 terms of the sum at a time through shared memory; each thread has four rows of 16 bytes.
template <class T>
__device__ void apply(const T* w, const T* x, T* y, long long b, long long c, long long d, long long batch) {
  constexpr int V = LANES<T>;
  __shared__ Pack<T, 4> left[DEPTH][ROWS / 4];
  __shared__ Pack<T, V> right[DEPTH][32];
  const long long down = (b + ROWS - 1) / ROWS, across = (batch + 32 * V - 1) / (32 * V);
  const long long row = blockIdx.x % down * ROWS, rest = blockIdx.x / down;
  const long long column = rest % across * (32 * V), block = rest / across, i = block / d, q = block % d;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const bool whole = batch % V == 0 && aligned(x) && aligned(y);
  const long long at = column + lane * V;
  const T* values = w + block * c * b;
  Pack<T, V> out[4];
#pragma unroll
  for (int k = 0; k < 4; k++)
#pragma unroll
    for (int l = 0; l < V; l++) out[k].at[l] = from_real<T>(0);
  for (long long start = 0; start < c; start += DEPTH) {
    for (int e = threadIdx.x; e < DEPTH * ROWS; e += 256) {
      const long long r = start + e / ROWS, p = row + e % ROWS;
      left[e / ROWS][e % ROWS / 4].at[e % 4] = r < c && p < b ? values[r * b + p] : from_real<T>(0);
    }
    for (int line = warp; line < DEPTH; line += 8) {
      const long long r = start + line;
      right[line][lane] = load_some<T>(x + ((i * c + r) * d + q) * batch + at, r < c ? batch - at : 0, whole);
    }
    __syncthreads();
#pragma unroll 2
    for (int r = 0; r < DEPTH; r++) {
      const Pack<T, 4> f = left[r][warp];
      const Pack<T, V> in = right[r][lane];
#pragma unroll
      for (int k = 0; k < 4; k++)
#pragma unroll
        for (int l = 0; l < V; l++) out[k].at[l] = out[k].at[l] + f.at[k] * in.at[l];
    }
    __syncthreads();
  }
#pragma unroll
  for (int k = 0; k < 4; k++) {
    const long long p = row + 4 * warp + k;
    if (p < b) store_some(y + ((i * b + p) * d + q) * batch + at, out[k], batch - at, whole);
  }
}

// g[part, i, p, r, q] = sum over the columns n of a part of gy[(i b + p) d + q, n] conj(x[(i c + r) d + q, n]): a warp per
// 4 x 4 of them, whose lanes share the columns.
template <class T>
__device__ void gradient(const T* x, const T* gy, T* g, long long items, long long a, long long b, long long c,
                         long long d, long long batch, long long stretch) {
  const long long tall = (b + 3) / 4, wide = (c + 3) / 4;
  const long long item = (long long)blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5);
  if (item >= items) return;
  const long long q = item % d, p = item / d % tall * 4, r = item / (d * tall) % wide * 4;
  const long long which = item / (d * tall * wide), i = which % a, start = which / a * stretch;
  const long long stop = start + stretch < batch ? start + stretch : batch;
  const int lane = threadIdx.x & 31;
  T sums[4][4];
#pragma unroll
  for (int k = 0; k < 4; k++)
#pragma unroll
    for (int l = 0; l < 4; l++) sums[k][l] = from_real<T>(0);
#pragma unroll 1
  for (long long n = start + lane; n < stop; n += 32) {
    T u[4], v[4];
#pragma unroll
    for (int k = 0; k < 4; k++) {
      u[k] = gy[((i * b + (p + k < b ? p + k : b - 1)) * d + q) * batch + n];
      v[k] = conjugate(x[((i * c + (r + k < c ? r + k : c - 1)) * d + q) * batch + n]);
    }
#pragma unroll
    for (int k = 0; k < 4; k++)
#pragma unroll
      for (int l = 0; l < 4; l++) sums[k][l] = sums[k][l] + u[k] * v[l];
  }
#pragma unroll
  for (int k = 0; k < 4; k++)
#pragma unroll
    for (int l = 0; l < 4; l++) {
      const T sum = warp_sum(sums[k][l]);
      if (lane == 4 * k + l && p + k < b && r + l < c) g[((which * b + p + k) * c + r + l) * d + q] = sum;
    }
}

#define ENTRIES(T, S)                                                                                               \
  KERNEL(256) apply_##S(const T* w, const T* x, T* y, long long b, long long c, long long d, long long batch) {     \
    apply(w, x, y, b, c, d, batch);                                                                                 \
  }                                                                                                                 \
  KERNEL(256) gradient_##S(const T* x, const T* gy, T* g, long long items, long long a, long long b, long long c,   \
                           long long d, long long batch, long long stretch) {                                       \
    gradient(x, gy, g, items, a, b, c, d, batch, stretch);                                                          \
  }
FOR_ALL(ENTRIES)
