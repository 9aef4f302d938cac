// The dominant singular triple of many blocks B (p x q, p <= q).
//
// G = B B^H, divided by its trace, is squared until its Frobenius norm says that one eigenvalue has outgrown all others
// (at least 1 - 4 eps), or so often that what remains is a tie, of which any direction will do. The column of its
// largest diagonal entry is then the eigenvector. Two products with B itself follow, so that the triple has the accuracy
// of B, not of G. One thread block per matrix; real 2 x 2 blocks have a closed form and one thread each.
#include "block.cuh"

// columns of B that are in shared memory at a time
#define PANEL 32

template <class R>
__device__ void closed_form(const R* blocks, R* u, R* s, R* v, long long count) {
  const long long n = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (n >= count) return;
  const R* block = blocks + 4 * n;
  R a = block[0], b = block[1], c = block[2], d = block[3];
  const R upper = fabs(a) > fabs(b) ? fabs(a) : fabs(b), lower = fabs(c) > fabs(d) ? fabs(c) : fabs(d);
  const R largest = upper > lower ? upper : lower;
  const R power = power_near(largest);
  a *= power, b *= power, c *= power, d *= power;
  const R half = (a * a + b * b - c * c - d * d) / 2, cross = a * c + b * d;
  const R root = sqrt(half * half + cross * cross);
  // the larger of the two forms of the eigenvector has no cancellation
  R x = half >= 0 ? half + root : cross, y = half >= 0 ? cross : root - half;
  if (!(root > 0)) x += 1;
  R p = 0, q = 0, size = 0;
  for (int turn = 0; turn < 2; turn++) {
    p = x * a + y * c, q = x * b + y * d;
    size = sqrt(p * p + q * q);
    size = size > 0 ? size : (R)1;
    p /= size, q /= size;
    x = p * a + q * b, y = p * c + q * d;
    size = sqrt(x * x + y * y);
    const R divisor = size > 0 ? size : (R)1;
    x /= divisor, y /= divisor;
  }
  const bool zero = largest == 0;
  u[2 * n] = zero ? (R)1 : x, u[2 * n + 1] = y;
  v[2 * n] = zero ? (R)1 : p, v[2 * n + 1] = q;
  s[n] = size / power;
}

template <class T>
__device__ __forceinline__ RealOf<T> normalize(T* x, long long length, RealOf<T>* scratch) {
  RealOf<T> mine = 0;
  for (long long i = threadIdx.x; i < length; i += blockDim.x) mine += square(x[i]);
  const RealOf<T> size = sqrt(block_sum(mine, scratch));
  const RealOf<T> scale = size > 0 ? 1 / size : (RealOf<T>)1;
  for (long long i = threadIdx.x; i < length; i += blockDim.x) x[i] = x[i] * scale;
  __syncthreads();
  return size;
}

// v = u^H B, B times `power`
template <class T>
__device__ __forceinline__ void from_left(const T* b, const T* u, T* v, long long p, long long q, RealOf<T> power) {
  for (long long j = threadIdx.x; j < q; j += blockDim.x) {
    T total = from_real<T>(0);
    for (long long i = 0; i < p; i++) total = total + conjugate(u[i]) * (b[i * q + j] * power);
    v[j] = total;
  }
  __syncthreads();
}

// u = B v^H, a warp per row
template <class T>
__device__ __forceinline__ void from_right(const T* b, const T* v, T* u, long long p, long long q, RealOf<T> power) {
  for (long long i = threadIdx.x >> 5; i < p; i += blockDim.x >> 5) {
    T total = from_real<T>(0);
    for (long long j = threadIdx.x & 31; j < q; j += 32) total = total + (b[i * q + j] * power) * conjugate(v[j]);
    total = warp_sum(total);
    if ((threadIdx.x & 31) == 0) u[i] = total;
  }
  __syncthreads();
}

// g = B B^H times power^2, panel by panel
template <class T>
__device__ __forceinline__ void gram(const T* b, T* g, T* panel, int p, long long q, int ld, RealOf<T> power) {
  for (int e = threadIdx.x; e < p * ld; e += blockDim.x) g[e] = from_real<T>(0);
  for (long long start = 0; start < q; start += PANEL) {
    const int width = q - start < PANEL ? (int)(q - start) : PANEL;
    __syncthreads();
    for (int e = threadIdx.x; e < p * PANEL; e += blockDim.x) {
      const int i = e / PANEL, j = e % PANEL;
      if (j < width) panel[i * (PANEL + 1) + j] = b[i * q + start + j] * power;
    }
    __syncthreads();
    for (int e = threadIdx.x; e < p * p; e += blockDim.x) {
      const int i = e / p, k = e % p;
      T total = g[i * ld + k];
      for (int j = 0; j < width; j++) total = total + panel[i * (PANEL + 1) + j] * conjugate(panel[k * (PANEL + 1) + j]);
      g[i * ld + k] = total;
    }
  }
  __syncthreads();
}

template <class T>
__device__ void dominant(const T* blocks, T* us, RealOf<T>* s, T* vs, int p, long long q, int squarings) {
  typedef RealOf<T> R;
  DYNAMIC_SHARED(memory);
  __shared__ R scratch[32];
  __shared__ int best;
  const int ld = p | 1;  // odd, so that a column lies in different banks
  T *g = reinterpret_cast<T*>(memory), *h = g + p * ld, *panel = h + p * ld;
  const T* b = blocks + blockIdx.x * (p * q);
  T *u = us + (long long)blockIdx.x * p, *v = vs + blockIdx.x * q;
  R largest = 0;
  for (long long e = threadIdx.x; e < p * q; e += blockDim.x) {
    const R here = extent(b[e]);
    largest = here > largest ? here : largest;
  }
  largest = block_max(largest, scratch);
  if (largest == 0) {
    for (long long i = threadIdx.x; i < p; i += blockDim.x) u[i] = from_real<T>(i == 0);
    for (long long j = threadIdx.x; j < q; j += blockDim.x) v[j] = from_real<T>(j == 0);
    if (threadIdx.x == 0) s[blockIdx.x] = 0;
    return;
  }
  const R power = power_near(largest);
  gram(b, g, panel, p, q, ld, power);
  for (int turn = 0;; turn++) {
    R trace = 0;
    for (int i = 0; i < p; i++) trace += real_part(g[i * ld + i]);
    __syncthreads();
    const R scale = 1 / trace;  // the trace is at least the square of the largest entry, or near one
    R mine = 0;
    for (int e = threadIdx.x; e < p * p; e += blockDim.x) {
      T& entry = g[e / p * ld + e % p];
      entry = entry * scale;
      mine += square(entry);
    }
    const R size = block_sum(mine, scratch);
    if (turn == squarings || size >= 1 - 4 * epsilon<R>()) break;
    for (int e = threadIdx.x; e < p * p; e += blockDim.x) {
      const int i = e / p, k = e % p;
      T total = from_real<T>(0);
      for (int j = 0; j < p; j++) total = total + g[i * ld + j] * conjugate(g[k * ld + j]);
      h[i * ld + k] = total;
    }
    T* other = g;
    g = h;
    h = other;
    __syncthreads();
  }
  if (threadIdx.x == 0) {
    best = 0;
    for (int i = 1; i < p; i++)
      if (real_part(g[i * ld + i]) > real_part(g[best * ld + best])) best = i;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < p; i += blockDim.x) u[i] = g[i * ld + best];
  __syncthreads();
  normalize(u, (long long)p, scratch);
  from_left(b, u, v, p, q, power);
  normalize(v, q, scratch);
  from_right(b, v, u, p, q, power);
  normalize(u, (long long)p, scratch);
  from_left(b, u, v, p, q, power);
  const R size = normalize(v, q, scratch);
  if (threadIdx.x == 0) s[blockIdx.x] = size / power;
}

#define CLOSED(R, S)                                                                                                \
  KERNEL(256) closed_form_##S(const R* blocks, R* u, R* s, R* v, long long count) {                                 \
    closed_form(blocks, u, s, v, count);                                                                            \
  }
#define ENTRIES(T, S)                                                                                               \
  KERNEL(256) dominant_##S(const T* blocks, T* u, RealOf<T>* s, T* v, long long p, long long q,                     \
                           long long squarings) {                                                                   \
    dominant(blocks, u, s, v, (int)p, q, (int)squarings);                                                           \
  }
FOR_REAL(CLOSED)
FOR_ALL(ENTRIES)
